// PTX of sm_80 and up, one named function an instruction. Under the emulator each is its twin.
#pragma once

#include "cuda/port.h"

namespace fastcnn::cuda {

#ifdef FASTCNN_EMULATED

using emulator::MmaType;
inline uint32_t shared_address(const void* p) { return emulator::shared_address(p); }
inline void cp_async_16(uint32_t destination, const void* source, int valid) {
  emulator::cp_async(destination, source, 16, valid);
}
inline void cp_async_commit() { emulator::cp_async_commit(); }
template <int kPending>
inline void cp_async_wait() {
  emulator::cp_async_wait(kPending);
}
inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) { emulator::ldmatrix_x4(r, address); }
inline bool any_lane(bool condition) { return emulator::any_lane(condition); }
template <MmaType kType>
inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  emulator::mma(d, a, b, kType);
}
inline uint32_t round_to_tf32(float x) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7f800000) == 0x7f800000) return bits;  // infinity and NaN pass
  return (bits + 0x1000) & 0xffffe000;                 // to nearest, ties away from zero, like cvt.rna
}

#else

enum class MmaType { float16, bfloat16, tf32 };

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies `valid` of 16 bytes and writes zeros for the rest; past L1, since a tile is used from shared memory.
__device__ __forceinline__ void cp_async_16(uint32_t destination, const void* source, int valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(destination), "l"(source), "r"(valid)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// Whether the condition holds in any lane of the warp.
__device__ __forceinline__ bool any_lane(bool condition) { return __any_sync(0xffffffffu, condition); }

#define FASTCNN_MMA(shape_and_types)                             \
  asm volatile("mma.sync.aligned." shape_and_types               \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
               "{%0, %1, %2, %3};\n"                             \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

// d += a b: 16 x 8 with 32 bytes of depth (16 halves or 8 floats).
template <MmaType kType>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kType == MmaType::float16) {
    FASTCNN_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  } else if constexpr (kType == MmaType::bfloat16) {
    FASTCNN_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
  } else {
    FASTCNN_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
  }
}
#undef FASTCNN_MMA

__device__ __forceinline__ uint32_t round_to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
  return bits;
}

#endif

}  // namespace fastcnn::cuda
