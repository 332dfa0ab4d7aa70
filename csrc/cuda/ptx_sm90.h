// PTX of sm_90 and sm_90a: mbarriers, TMA, wgmma, register reallocation. Under the emulator each is its twin.
#pragma once

#include "cuda/ptx.h"

#ifndef FASTCNN_EMULATED
#include <cuda.h>
#endif

namespace fastcnn::cuda {

#ifdef FASTCNN_EMULATED

using emulator::TensorMap;
inline void mbarrier_init(uint32_t barrier, int count) { emulator::mbarrier_init(barrier, count); }
inline void mbarrier_arrive(uint32_t barrier) { emulator::mbarrier_arrive(barrier); }
inline void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes) {
  emulator::mbarrier_arrive_expect_tx(barrier, bytes);
}
inline void mbarrier_wait(uint32_t barrier, uint32_t parity) { emulator::mbarrier_wait(barrier, parity); }
inline void fence_mbarrier_init() { emulator::fence_mbarrier_init(); }
inline void fence_proxy_async() { emulator::fence_proxy_async(); }
inline void named_barrier(int id, int threads) { emulator::named_barrier(id, threads); }
inline void tma_load_3d(uint32_t destination, const TensorMap* map, uint32_t barrier, int c0, int c1,
                        int c2) {
  const int c[] = {c0, c1, c2};
  emulator::tma_load(destination, map, barrier, 3, c);
}
inline void tma_load_4d(uint32_t destination, const TensorMap* map, uint32_t barrier, int c0, int c1, int c2,
                        int c3) {
  const int c[] = {c0, c1, c2, c3};
  emulator::tma_load(destination, map, barrier, 4, c);
}
inline void tma_store_4d(uint32_t source, const TensorMap* map, int c0, int c1, int c2, int c3) {
  const int c[] = {c0, c1, c2, c3};
  emulator::tma_store(source, map, 4, c);
}
inline void tma_store_commit() { emulator::tma_store_commit(); }
inline void tma_store_wait_read() { emulator::tma_store_wait_read(0); }
template <int kCount>
inline void release_registers() {
  emulator::set_max_registers(kCount);
}
template <int kCount>
inline void acquire_registers() {
  emulator::set_max_registers(kCount);
}
inline void wgmma_fence() { emulator::wgmma_fence(); }
inline void wgmma_commit() { emulator::wgmma_commit(); }
template <int kPending>
inline void wgmma_wait() {
  emulator::wgmma_wait(kPending);
}
template <int kN, MmaType kType>
inline void wgmma(float (&d)[kN / 2], uint64_t a, uint64_t b, int accumulate) {
  emulator::wgmma(d, a, b, kN, kType, accumulate != 0);
}

#else

using TensorMap = CUtensorMap;

__device__ __forceinline__ void mbarrier_init(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Returns when the phase of this parity is complete.
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "wait:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra ready;\n"
      "bra wait;\n"
      "ready:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// Makes initialised mbarriers visible to the copy engine.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}
// Orders this thread's plain accesses to shared memory before those of the copy engine and the tensor cores.
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void tma_load_3d(uint32_t destination, const TensorMap* map, uint32_t barrier,
                                            int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];\n" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
__device__ __forceinline__ void tma_load_4d(uint32_t destination, const TensorMap* map, uint32_t barrier,
                                            int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
      "%6}], "
      "[%2];\n" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
__device__ __forceinline__ void tma_store_4d(uint32_t source, const TensorMap* map, int c0, int c1, int c2,
                                             int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];\n" ::"l"(map),
      "r"(source), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
}
// Returns when every committed store of this thread has read its shared memory.
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;\n" ::: "memory");
}

template <int kCount>
__device__ __forceinline__ void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void acquire_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kCount));
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}

// An asm statement needs its registers spelt out: FASTCNN_REGS_n and FASTCNN_OUTS_n are the n / 2 of them
// that hold a thread's part of a 64 x n tile.
// clang-format off
#define FASTCNN_REGS_16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define FASTCNN_REGS_32 FASTCNN_REGS_16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define FASTCNN_REGS_48 FASTCNN_REGS_32 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define FASTCNN_REGS_64 FASTCNN_REGS_48 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define FASTCNN_REGS_80 FASTCNN_REGS_64 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define FASTCNN_REGS_96 FASTCNN_REGS_80 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define FASTCNN_REGS_112 FASTCNN_REGS_96 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define FASTCNN_REGS_128 FASTCNN_REGS_112 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define FASTCNN_REGS_144 FASTCNN_REGS_128 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define FASTCNN_REGS_160 FASTCNN_REGS_144 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define FASTCNN_REGS_176 FASTCNN_REGS_160 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define FASTCNN_REGS_192 FASTCNN_REGS_176 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define FASTCNN_REGS_208 FASTCNN_REGS_192 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define FASTCNN_REGS_224 FASTCNN_REGS_208 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define FASTCNN_REGS_240 FASTCNN_REGS_224 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define FASTCNN_REGS_256 FASTCNN_REGS_240 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define FASTCNN_OUTS_16 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define FASTCNN_OUTS_32 FASTCNN_OUTS_16, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define FASTCNN_OUTS_48 FASTCNN_OUTS_32, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define FASTCNN_OUTS_64 FASTCNN_OUTS_48, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define FASTCNN_OUTS_80 FASTCNN_OUTS_64, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define FASTCNN_OUTS_96 FASTCNN_OUTS_80, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define FASTCNN_OUTS_112 FASTCNN_OUTS_96, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define FASTCNN_OUTS_128 FASTCNN_OUTS_112, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define FASTCNN_OUTS_144 FASTCNN_OUTS_128, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define FASTCNN_OUTS_160 FASTCNN_OUTS_144, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define FASTCNN_OUTS_176 FASTCNN_OUTS_160, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define FASTCNN_OUTS_192 FASTCNN_OUTS_176, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define FASTCNN_OUTS_208 FASTCNN_OUTS_192, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define FASTCNN_OUTS_224 FASTCNN_OUTS_208, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define FASTCNN_OUTS_240 FASTCNN_OUTS_224, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define FASTCNN_OUTS_256 FASTCNN_OUTS_240, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

#define FASTCNN_WGMMA_ASM(shape_and_types, transposes, n, a_, b_, accumulate_)                                  \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " accumulate_ ", 0;\nwgmma.mma_async.sync.aligned." shape_and_types \
               " {" FASTCNN_REGS_##n "}, " a_ ", " b_ ", p, 1, 1" transposes ";\n}\n"                         \
               : FASTCNN_OUTS_##n : "l"(a), "l"(b), "r"(accumulate))

#define FASTCNN_WGMMA(n, a_, b_, accumulate_)                                                                   \
  do {                                                                                                          \
    if constexpr (kType == MmaType::float16)                                                                    \
      FASTCNN_WGMMA_ASM("m64n" #n "k16.f32.f16.f16", ", 0, 0", n, a_, b_, accumulate_);                         \
    else if constexpr (kType == MmaType::bfloat16)                                                              \
      FASTCNN_WGMMA_ASM("m64n" #n "k16.f32.bf16.bf16", ", 0, 0", n, a_, b_, accumulate_);                       \
    else                                                                                                        \
      FASTCNN_WGMMA_ASM("m64n" #n "k8.f32.tf32.tf32", "", n, a_, b_, accumulate_);                              \
  } while (0)

// d (64 x kN) = a (64 rows) b (kN rows)^T + (accumulate ? d : 0) over 32 bytes of depth, by a whole warpgroup.
template <int kN, MmaType kType>
__device__ __forceinline__ void wgmma(float (&d)[kN / 2], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (kN == 16) FASTCNN_WGMMA(16, "%8", "%9", "%10");
  if constexpr (kN == 32) FASTCNN_WGMMA(32, "%16", "%17", "%18");
  if constexpr (kN == 48) FASTCNN_WGMMA(48, "%24", "%25", "%26");
  if constexpr (kN == 64) FASTCNN_WGMMA(64, "%32", "%33", "%34");
  if constexpr (kN == 80) FASTCNN_WGMMA(80, "%40", "%41", "%42");
  if constexpr (kN == 96) FASTCNN_WGMMA(96, "%48", "%49", "%50");
  if constexpr (kN == 112) FASTCNN_WGMMA(112, "%56", "%57", "%58");
  if constexpr (kN == 128) FASTCNN_WGMMA(128, "%64", "%65", "%66");
  if constexpr (kN == 144) FASTCNN_WGMMA(144, "%72", "%73", "%74");
  if constexpr (kN == 160) FASTCNN_WGMMA(160, "%80", "%81", "%82");
  if constexpr (kN == 176) FASTCNN_WGMMA(176, "%88", "%89", "%90");
  if constexpr (kN == 192) FASTCNN_WGMMA(192, "%96", "%97", "%98");
  if constexpr (kN == 208) FASTCNN_WGMMA(208, "%104", "%105", "%106");
  if constexpr (kN == 224) FASTCNN_WGMMA(224, "%112", "%113", "%114");
  if constexpr (kN == 240) FASTCNN_WGMMA(240, "%120", "%121", "%122");
  if constexpr (kN == 256) FASTCNN_WGMMA(256, "%128", "%129", "%130");
}
// clang-format on
#undef FASTCNN_WGMMA
#undef FASTCNN_WGMMA_ASM
#undef FASTCNN_REGS_16
#undef FASTCNN_OUTS_16
#undef FASTCNN_REGS_32
#undef FASTCNN_OUTS_32
#undef FASTCNN_REGS_48
#undef FASTCNN_OUTS_48
#undef FASTCNN_REGS_64
#undef FASTCNN_OUTS_64
#undef FASTCNN_REGS_80
#undef FASTCNN_OUTS_80
#undef FASTCNN_REGS_96
#undef FASTCNN_OUTS_96
#undef FASTCNN_REGS_112
#undef FASTCNN_OUTS_112
#undef FASTCNN_REGS_128
#undef FASTCNN_OUTS_128
#undef FASTCNN_REGS_144
#undef FASTCNN_OUTS_144
#undef FASTCNN_REGS_160
#undef FASTCNN_OUTS_160
#undef FASTCNN_REGS_176
#undef FASTCNN_OUTS_176
#undef FASTCNN_REGS_192
#undef FASTCNN_OUTS_192
#undef FASTCNN_REGS_208
#undef FASTCNN_OUTS_208
#undef FASTCNN_REGS_224
#undef FASTCNN_OUTS_224
#undef FASTCNN_REGS_240
#undef FASTCNN_OUTS_240
#undef FASTCNN_REGS_256
#undef FASTCNN_OUTS_256

#endif

// Descriptor of a K-major tile in shared memory: rows of 128 bytes under the 128-byte swizzle, eight rows to
// 1024 bytes. Bits 0-13: address / 16; 32-45: bytes between groups of eight rows / 16; 62-63: the swizzle.
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}
// The next 32 bytes of depth.
constexpr uint64_t kWgmmaDepthStep = 32 >> 4;

}  // namespace fastcnn::cuda
