// What CUDA kernels see when g++ compiles them for the emulator: the built-in variables, the barriers and one
// function for each PTX instruction. Everything is implemented in the runtime, which is compiled without
// instrumentation. Tests only; never part of the wheel.
//
// A CUDA thread is a fiber; a block's fibers take turns on one OS thread, so that a run is reproducible from
// (order, seed). Every access to memory is checked: see checker.cc.
#pragma once

#include <cstddef>
#include <cstdint>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

enum class MmaType { float16, bfloat16, tf32 };

// The threads' coordinates. `const`: constant within a fiber, and a fiber keeps its own stack.
__attribute__((const)) dim3 thread_index();
__attribute__((const)) dim3 block_index();
__attribute__((const)) dim3 block_size();
__attribute__((const)) dim3 grid_size();

char* shared_memory();
uint32_t shared_address(const void* pointer);

// Plain 16-byte accesses: functions, because g++ splits a
// 16-byte struct copy and the alignment check with it.
void load_16_bytes(void* destination, const void* source);
void store_16_bytes(void* destination, const void* source);

// Barriers and warp collectives (all 32 lanes take part).
void block_barrier();
void named_barrier(int id, int threads);
void warp_barrier();
uint32_t shuffle(uint32_t value, int source_lane);
bool any_lane(bool condition);
void ldmatrix_x4(uint32_t registers[4], uint32_t address);
void mma(float d[4], const uint32_t a[4], const uint32_t b[2], MmaType type);

// cp.async: `valid` of `size` bytes are copied, the rest is zero.
void cp_async(uint32_t destination, const void* source, int size, int valid);
void cp_async_commit();
void cp_async_wait(int pending_groups);

// mbarriers. A wait never returns before its phase is complete.
void mbarrier_init(uint32_t barrier, int count);
void mbarrier_arrive(uint32_t barrier);
void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes);
void mbarrier_wait(uint32_t barrier, uint32_t parity);
void fence_mbarrier_init();
void fence_proxy_async();

// TMA. Swizzle: 0 none, 1 32 bytes, 2 64 bytes, 3 128 bytes (CUtensorMapSwizzle's values).
struct alignas(64) TensorMap {
  char* base;
  uint64_t size[5], stride[5];  // stride in bytes; stride[0] is the element's size
  uint32_t box[5], traversal[5];
  int rank, element_size, swizzle;
  bool rounds_to_tf32;  // on loads; the engine's way of rounding ties is not documented, here away from zero
};
// Returns what cuTensorMapEncodeTiled would refuse, in words, or null.
const char* encode_tensor_map(TensorMap* map, int element_size, int rank, void* base, const uint64_t* size,
                              const uint64_t* stride_bytes, const uint32_t* box, const uint32_t* traversal,
                              int swizzle, bool rounds_to_tf32);
void tma_load(uint32_t destination, const TensorMap* map, uint32_t barrier, int rank, const int* coordinates);
void tma_store(uint32_t source, const TensorMap* map, int rank, const int* coordinates);
void tma_store_commit();
void tma_store_wait_read(int pending_groups);

// wgmma: collectives of a warpgroup (128 threads), except that wait_group lets each warp go on by itself.
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending_groups);
void wgmma(float* accumulators, uint64_t a, uint64_t b, int n, MmaType type, bool accumulate);

// setmaxnreg: the counts are checked for form only.
void set_max_registers(int count);

// Runs body(context) as every thread of the grid; returns the first finding ("" if clean). The context, which
// holds the kernel's parameters, may be read by every thread.
const char* launch(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(const void*), const void* context,
                   size_t context_size);

}  // namespace emulator

#define EMULATOR_EXPORT __attribute__((visibility("default")))

// Control, called by the tests through ctypes.
extern "C" {
// order: 0 forward, 1 reverse, 2 random. lazy: asynchronous work lands as late as it may. check: detector on.
EMULATOR_EXPORT void emulator_configure(int order, unsigned seed, int lazy, int check);
EMULATOR_EXPORT void emulator_add_buffer(const void* pointer, size_t bytes, int writable);
EMULATOR_EXPORT void emulator_clear_buffers();
// While on, any global address may be read and written: for tests that cannot name the tensors.
EMULATOR_EXPORT void emulator_allow_everything(int on);
EMULATOR_EXPORT uint64_t emulator_launches();
}
