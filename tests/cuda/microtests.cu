// What the Hopper kernels rest on and no document says clearly: one small kernel for each question, each with
// its answer worked out on the host. A program of its own; `make gpu` runs it first, the test suite on the
// emulator. A line a question: "pass" or "FAIL" or "not here", and which kernels rest on it. Exit code 1 if
// one fails.
//
//   nvcc -std=c++17 -gencode arch=compute_90a,code=sm_90a -Icsrc tests/cuda/microtests.cu
//   csrc/cuda/tensor_map.cu
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/launch.h"
#include "cuda/tensor_map.h"

using namespace fastcnn;
using namespace fastcnn::cuda;

namespace {

// ---- memory that both sides see, its surroundings poisoned

constexpr float kPoison = -12345.0f;

float* allocate(size_t floats, bool writable) {
  void* p = nullptr;
#ifdef FASTCNN_EMULATED
  p = aligned_alloc(256, (floats * 4 + 255) / 256 * 256);
  emulator_add_buffer(p, floats * 4, writable);
#else
  (void)writable;
  if (cudaMallocManaged(&p, floats * 4) != cudaSuccess) return nullptr;
#endif
  float* f = static_cast<float*>(p);
  for (size_t i = 0; i < floats; i++) f[i] = kPoison;
  return f;
}

Status synchronise() {
#ifdef FASTCNN_EMULATED
  return Status();
#else
  return status_of(cudaDeviceSynchronize(), "while it ran");
#endif
}

// ---- the kernels

constexpr int kThreads = 128, kRow = 32, kRows = 64;  // a tile: rows of 128 bytes under the 128-byte swizzle
constexpr int kTile = kRow * kRows;

__device__ __forceinline__ uint32_t swizzled(int row, int column) {
  const uint32_t offset = row * 128 + column * 4;
  return offset ^ (((offset >> 7) & 7) << 4);
}

struct LoadParams {
  TensorMap map;
  int c, w, h, n, bytes;
  float* out;
};
// One box into shared memory, and from there, row by row, to `out`. What the box does not fill stays poison.
__global__ void load_kernel(const __grid_constant__ LoadParams params) {
  FASTCNN_SHARED(shared);
  const uint32_t base = (shared_address(shared) + 1023) & ~1023u, barrier = base + kTile * 4;
  char* tile = shared + (base - shared_address(shared));
  for (int i = threadIdx.x; i < kTile; i += kThreads) *reinterpret_cast<float*>(tile + i * 4) = kPoison;
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
  }
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(barrier, params.bytes);
    tma_load_4d(base, &params.map, barrier, params.c, params.w, params.h, params.n);
  }
  mbarrier_wait(barrier, 0);
  for (int i = threadIdx.x; i < kTile; i += kThreads)
    params.out[i] = *reinterpret_cast<float*>(tile + swizzled(i / kRow, i % kRow));
}

struct StoreParams {
  TensorMap map;
  int c, w, h, n;
};
// A tile of 1000 + its index, as one box to the tensor.
__global__ void store_kernel(const __grid_constant__ StoreParams params) {
  FASTCNN_SHARED(shared);
  const uint32_t base = (shared_address(shared) + 1023) & ~1023u;
  char* tile = shared + (base - shared_address(shared));
  for (int i = threadIdx.x; i < kTile; i += kThreads)
    *reinterpret_cast<float*>(tile + swizzled(i / kRow, i % kRow)) = 1000.0f + i;
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    tma_store_4d(base, &params.map, params.c, params.w, params.h, params.n);
    tma_store_commit();
    tma_store_wait_read();
  }
}

struct RegisterParams {
  float* out;
};
// Three warpgroups as in the convolutions: the first gives registers away, the others keep 160 values each in
// theirs.
__global__ void __launch_bounds__(384, 1) register_kernel(const __grid_constant__ RegisterParams params) {
  if (threadIdx.x < 128) {
    release_registers<40>();
    params.out[threadIdx.x] = static_cast<float>(threadIdx.x);
  } else {
    acquire_registers<232>();
    float value[160];
#pragma unroll
    for (int i = 0; i < 160; i++) value[i] = static_cast<float>(threadIdx.x + i);
    for (int round = 0; round < 8; round++)
#pragma unroll
      for (int i = 0; i < 160; i++) value[i] = value[i] * 0.5f + value[(i + 1) % 160] * 0.5f;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 160; i++) sum += value[i];
    params.out[threadIdx.x] = sum;
  }
}

struct PlainParams {
  float* out;
};
__global__ void plain_kernel(const __grid_constant__ PlainParams params) {
  params.out[threadIdx.x] = static_cast<float>(threadIdx.x);
}

#ifndef FASTCNN_EMULATED
struct ClusterParams {
  TensorMap map;
  float* out;
};
// Two blocks of a cluster: the first loads the box once, into both.
__global__ void __cluster_dims__(2, 1, 1) cluster_kernel(const __grid_constant__ ClusterParams params) {
  FASTCNN_SHARED(shared);
  const uint32_t base = (shared_address(shared) + 1023) & ~1023u, barrier = base + kTile * 4;
  char* tile = shared + (base - shared_address(shared));
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect_tx(barrier, kTile * 4);
  }
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n" ::: "memory");
  if (rank == 0 && threadIdx.x == 0)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], "
        "[%1, {%3, %4, %5, %6}], [%2], %7;\n" ::"r"(base),
        "l"(&params.map), "r"(barrier), "r"(0), "r"(0), "r"(0), "r"(0), "h"(static_cast<uint16_t>(3))
        : "memory");
  mbarrier_wait(barrier, 0);
  for (int i = threadIdx.x; i < kTile; i += kThreads)
    params.out[rank * kTile + i] = *reinterpret_cast<float*>(tile + swizzled(i / kRow, i % kRow));
  // A block must not leave while the other's copy may still write into it.
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n" ::: "memory");
}
#endif

constexpr size_t kSharedBytes = kTile * 4 + 1024 + 64;

// ---- the host's half

// A tensor of N images of H rows of W pixels of C floats, element (n, h, w, c) holding its index.
struct Tensor {
  int N, H, W, C;
  float* data;
  Tensor(int N, int H, int W, int C, bool writable = false) : N(N), H(H), W(W), C(C) {
    data = allocate(static_cast<size_t>(N) * H * W * C, writable);
    for (int64_t i = 0; i < int64_t{N} * H * W * C; i++) data[i] = static_cast<float>(i);
  }
  bool inside(int c, int w, int h, int n) const {
    return c >= 0 && c < C && w >= 0 && w < W && h >= 0 && h < H && n >= 0 && n < N;
  }
  float* at(int c, int w, int h, int n) const { return data + ((int64_t{n} * H + h) * W + w) * C + c; }
};

struct Box {
  int w, h, n, step = 1;  // pixels of the result; every step-th is taken
};

Status encode(const Tensor& t, Box box, TensorMap* map, bool tf32 = false) {
  const uint64_t C = t.C, W = t.W, H = t.H, N = t.N;
  const uint32_t w = box.w, h = box.h, n = box.n, step = box.step;
  return encode_tensor_map({DType::float32,
                            4,
                            t.data,
                            {C, W, H, N},
                            {C * 4, W * C * 4, H * W * C * 4},
                            {kRow, w, h, n},
                            {1, step, step, 1},
                            128,
                            tf32},
                           map);
}

std::string load(const Tensor& t, Box box, int c, int w, int h, int n) {
  LoadParams params = {};
  Status status = encode(t, box, &params.map);
  if (!status.ok()) return status.message;
  params.c = c, params.w = w, params.h = h, params.n = n;
  params.bytes = kRow * box.w * box.h * box.n * 4;
  params.out = allocate(kTile, true);
  status = launch("load", load_kernel, dim3(1), dim3(kThreads), kSharedBytes, nullptr, params);
  if (status.ok()) status = synchronise();
  if (!status.ok()) return status.message;
  for (int i = 0; i < kTile; i++) {
    const int row = i / kRow;
    const int x = w + row % box.w * box.step, y = h + row / box.w % box.h * box.step,
              z = n + row / box.w / box.h;
    float expected = kPoison;
    if (row < box.w * box.h * box.n)
      expected = t.inside(c + i % kRow, x, y, z) ? *t.at(c + i % kRow, x, y, z) : 0.0f;
    if (params.out[i] != expected) {
      char text[128];
      snprintf(text, sizeof text, "row %d column %d is %g, expected %g", row, i % kRow, params.out[i],
               expected);
      return text;
    }
  }
  return "";
}

std::string store(Box box, int c, int w, int h, int n) {
  Tensor t(2, 6, 6, 48, true);
  StoreParams params = {};
  Status status = encode(t, box, &params.map);
  if (!status.ok()) return status.message;
  params.c = c, params.w = w, params.h = h, params.n = n;
  status = launch("store", store_kernel, dim3(1), dim3(kThreads), kSharedBytes, nullptr, params);
  if (status.ok()) status = synchronise();
  if (!status.ok()) return status.message;
  const Tensor before(2, 6, 6, 48);
  for (int row = 0; row < box.w * box.h * box.n; row++)
    for (int i = 0; i < kRow; i++) {
      const int x = w + row % box.w, y = h + row / box.w % box.h, z = n + row / box.w / box.h;
      if (t.inside(c + i, x, y, z)) *before.at(c + i, x, y, z) = 1000.0f + row * kRow + i;
    }
  for (int64_t i = 0; i < int64_t{2} * 6 * 6 * 48; i++)
    if (t.data[i] != before.data[i])
      return "element " + std::to_string(i) + " is " + std::to_string(t.data[i]) + ", expected " +
             std::to_string(before.data[i]);
  return "";
}

std::string t1() {
  const Tensor t(2, 6, 6, 48);
  for (int w : {-9, 6, 100})
    for (const std::string& found : {load(t, {8, 8, 1}, 0, w, 0, 0), load(t, {8, 8, 1}, 0, 0, w, 0),
                                     load(t, {8, 4, 2}, 64, 0, 0, 0), load(t, {8, 4, 2}, 0, 0, 0, 2)})
      if (!found.empty()) return found;
  return "";
}

std::string t2() {
  for (const std::string& found :
       {store({8, 8, 1}, 0, 6, 0, 0), store({8, 8, 1}, 0, 0, -8, 1), store({8, 4, 2}, 0, 0, 0, 2),
        store({8, 8, 1}, 64, 0, 0, 0), store({8, 8, 1}, 32, 2, 3, 1)})
    if (!found.empty()) return found;
  return "";
}

std::string t3() {
  const std::string one = load(Tensor(1, 3, 5, 16), {16, 4, 1}, 0, 0, 0, 0);
  return one.empty() ? load(Tensor(1, 1, 1, 8), {8, 4, 2}, 0, -3, -1, 0) : one;
}

std::string t4() {
  for (int size : {7, 8})
    for (int offset : {-3, -1, 0}) {
      const std::string found = load(Tensor(2, size, size, 32), {4, 4, 2, 2}, 0, offset, offset, 0);
      if (!found.empty()) return found;
    }
  return "";
}

std::string t5() {
  RegisterParams params = {allocate(384, true)};
  Status status = launch("registers", register_kernel, dim3(1), dim3(384), 0, nullptr, params);
  if (status.ok()) status = synchronise();
  if (!status.ok()) return status.message;
  for (int t = 0; t < 384; t++) {
    // Each round keeps the sum: 160 times the thread's number, and 0 to 159.
    const float expected = t < 128 ? t : 160.0f * t + 159 * 80;
    if (std::fabs(params.out[t] - expected) > 1e-4f * expected)
      return "thread " + std::to_string(t) + " is wrong";
  }
  return "";
}

std::string t6() {
#ifdef FASTCNN_EMULATED
  return "not here: the emulator has no clusters";
#else
  const Tensor t(1, 8, 8, 32);
  ClusterParams params = {};
  Status status = encode(t, {8, 8, 1}, &params.map);
  if (!status.ok()) return status.message;
  params.out = allocate(2 * kTile, true);
  status = launch("cluster", cluster_kernel, dim3(2), dim3(kThreads), kSharedBytes, nullptr, params);
  if (status.ok()) status = synchronise();
  if (!status.ok()) return status.message;
  for (int i = 0; i < 2 * kTile; i++)
    if (params.out[i] != t.data[i % kTile]) return "element " + std::to_string(i) + " is wrong";
  return "";
#endif
}

std::string t7() {
  PlainParams params = {allocate(64, true)};
  const Status failed = launch("too much", plain_kernel, dim3(1), dim3(64), 300 * 1024, nullptr, params);
  if (failed.ok()) return "a launch with 300 KB of shared memory passed";
#ifndef FASTCNN_EMULATED
  if (cudaPeekAtLastError() != cudaSuccess) return "a failed launch left its error behind";
#endif
  Status status = launch("plain", plain_kernel, dim3(1), dim3(64), 0, nullptr, params);
  if (status.ok()) status = synchronise();
  if (!status.ok()) return status.message;
  return params.out[63] == 63.0f ? "" : "the launch after it computed nothing";
}

std::string t8() {
  Tensor t(1, 8, 8, 32);
  for (int i = 0; i < kTile; i++) {
    const uint32_t bits = 0x3f800000u + static_cast<uint32_t>(i) * 2654435761u % 0x800000u;
    memcpy(t.data + i, &bits, 4);
  }
  const uint32_t tie = 0x3f801000u;  // halfway between 1 and the next number of tf32
  memcpy(t.data, &tie, 4);
  LoadParams params = {};
  Status status = encode(t, {8, 8, 1}, &params.map, true);
  if (!status.ok()) return status.message;
  params.bytes = kTile * 4;
  params.out = allocate(kTile, true);
  status = launch("load", load_kernel, dim3(1), dim3(kThreads), kSharedBytes, nullptr, params);
  if (status.ok()) status = synchronise();
  if (!status.ok()) return status.message;
  printf("   a tie is rounded %s\n", params.out[0] > 1.0f ? "away from zero" : "to even");
  for (int i = 1; i < kTile; i++) {
    uint32_t bits, result;
    memcpy(&bits, t.data + i, 4);
    memcpy(&result, params.out + i, 4);
    if ((bits & 0x1fff) == 0x1000) continue;
    if (result != ((bits + 0x1000) & 0xffffe000))
      return "element " + std::to_string(i) + " is not rounded to tf32";
  }
  return "";
}

const struct {
  const char *name, *question, *rests;
  std::string (*run)();
} kTests[] = {
    {"T1", "a TMA load whose box lies wholly outside is zeros, and counts whole",
     "conv2d_sm90 with wide padding", t1},
    {"T2", "a TMA store leaves out what lies outside, all of it too", "conv2d_sm90 at every ragged edge", t2},
    {"T3", "a box may be larger than the tensor", "conv2d_sm90 of small images", t3},
    {"T4", "a box that is thinned out begins at negative, odd corners", "conv2d_sm90 of stride 2", t4},
    {"T5", "setmaxnreg 40 and 232 leave 160 values whole", "conv2d_sm90 and conv2d_sm90_resident", t5},
    {"T6", "a cluster of 2 loads one box into both", "no kernel yet", t6},
    {"T7", "a failed launch is reported once, the next one runs", "every kernel", t7},
    {"T8", "a TMA load rounds float32 to TF32", "conv2d_sm90 with TF32", t8},
};

}  // namespace

int main(int count, char** names) {
  bool failed = false;
  for (const auto& test : kTests) {
    bool asked = count == 1;
    for (int i = 1; i < count; i++) asked |= names[i] == std::string(test.name);
    if (!asked) continue;
    const std::string found = test.run();
    const bool absent = found.rfind("not here", 0) == 0;
    failed |= !found.empty() && !absent;
    printf("%s %s: %s", test.name, found.empty() ? "pass" : absent ? "not here" : "FAIL", test.question);
    if (!found.empty() && !absent) printf(": %s", found.c_str());
    printf(" (%s rests on it)\n", test.rests);
    fflush(stdout);
  }
  return failed;
}
