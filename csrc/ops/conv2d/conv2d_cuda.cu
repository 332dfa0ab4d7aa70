// Planning and launching: which kernels take a problem, in which order they are expected to be fast.
#include <algorithm>
#include <cmath>

#include "ops/conv2d/conv2d_cuda.h"
#include "ops/conv2d/conv2d_grouped_cuda.h"
#include "ops/conv2d/conv2d_sm80_cuda.cuh"
#if defined(FASTCNN_WITH_SM90) || defined(FASTCNN_EMULATED)
#define FASTCNN_HOPPER 1
#include "ops/conv2d/conv2d_sm90_cuda.h"
#endif

namespace fastcnn::cuda {

namespace {

const char* const kKernelNames[] = {"sm80", "sm80_gather", "sm90", "sm90_resident", "grouped"};
const char* const kModeNames[] = {"strict", "tf32"};

int element_size(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

// A compiled tile, and what the model below assumes of it.
struct TileFacts {
  int m, n, shared_bytes, threads;
  double efficiency;  // share of the tensor cores' rate that its inner loop may reach
};
template <class Tile>
constexpr TileFacts facts(double efficiency) {
  return {Tile::kM, Tile::kN, Tile::kSharedBytes, Tile::kThreads, efficiency};
}
constexpr TileFacts kTiles[] = {facts<Sm80Tile128x128>(0.80), facts<Sm80Tile128x64>(0.65),
                                facts<Sm80Tile64x64>(0.50), facts<Sm80Tile128x32>(0.40)};
constexpr int kStages = 4;

const TileFacts* find_tile(const Conv2dPlan& plan) {
  for (const TileFacts& tile : kTiles)
    if (tile.m == plan.tile_m && tile.n == plan.tile_n) return &tile;
  return nullptr;
}

bool is_strict(const Conv2dProblem& p, const Conv2dPlan& plan) {
  return p.dtype == DType::float32 && plan.float32_mode == Float32Mode::strict;
}

int64_t total_steps(const Conv2dProblem& p) {
  return ceil_div(p.R * p.S * (p.C / p.groups) * element_size(p.dtype), Sm80Tile64x64::kRowBytes);
}

bool is_sm90(const Conv2dPlan& plan) {
  return plan.kernel == Conv2dKernel::sm90 || plan.kernel == Conv2dKernel::sm90_resident;
}

std::string number_reason(const char* what, int64_t value, int64_t limit) {
  return std::string(what) + " is " + std::to_string(value) + ", the kernel's limit is " +
         std::to_string(limit);
}

// Bytes a clock cycle that a multiprocessor gets: from device memory, from L2 (5120 a cycle for all, as an A100's
// and an H100's L2 give), from its own shared memory.
constexpr double kMemoryBytes = 12, kL2Bytes = 39, kSharedMemoryBytes = 128;
// Cycles from a tile's first load to its first product, and from its last product to its store.
constexpr double kTileCycles = 2000;

// Cycles that the tensors' way from and to device memory takes, once each: no plan is faster.
double memory_cycles(const Conv2dProblem& p, const Device& device) {
  const double size = element_size(p.dtype), outputs = static_cast<double>(p.N) * p.P * p.Q * p.K;
  // A 1x1 convolution of stride 2 reads every other pixel.
  const double pixels = static_cast<double>(p.N) * std::min(p.H, p.P * p.R) * std::min(p.W, p.Q * p.S);
  const double weights = static_cast<double>(p.K) * p.R * p.S * (p.C / p.groups);
  return size * (pixels * p.C + weights + outputs * (p.has_residual ? 2 : 1)) /
         (kMemoryBytes * device.multiprocessors);
}

// A tile's steps: each as slow as the slowest of tensor cores, shared memory and L2, or as a load's latency over the
// stages in flight.
double step_cycles(double products, double shared_bytes, double l2_bytes, int stages) {
  return std::max({products, shared_bytes / kSharedMemoryBytes, l2_bytes / kL2Bytes, 800.0 / stages});
}

double sm90_cycles(const Conv2dProblem& p, const Conv2dPlan& plan, const Device& device) {
#ifdef FASTCNN_HOPPER
  const bool resident = plan.kernel == Conv2dKernel::sm90_resident;
  const Sm90Box box = resident ? sm90_resident_box(p) : sm90_box(p);
  const double n = plan.tile_n, m = 128, row = 128, block = row / element_size(p.dtype);
  const double tiles = static_cast<double>(box.tiles) * ceil_div(p.K, plan.tile_n);
  const double products = m * n * block / (p.dtype == DType::float32 ? 1024 : 2048);
  // Each of the two warpgroups reads its half of the pixels and all of the weights.
  const double shared_bytes = (m + 2 * n) * row;
  // With resident weights one box, two rows taller, serves the three taps of a filter column.
  const double l2_bytes = (resident ? m * 1.25 / 3 : m + n) * row;
  const double steps = static_cast<double>(p.R * p.S) * ceil_div(p.C, static_cast<int64_t>(block));
  return std::ceil(tiles / device.multiprocessors) *
         (steps * step_cycles(products, shared_bytes, l2_bytes, plan.stages) + kTileCycles);
#else
  (void)p, (void)plan, (void)device;
  return 0.0;
#endif
}

double sm80_cycles(const Conv2dProblem& p, const Conv2dPlan& plan, const Device& device) {
  const TileFacts& tile = *find_tile(plan);
  const double products_per_cycle = p.dtype != DType::float32 ? 1024 : is_strict(p, plan) ? 512.0 / 3 : 512;
  const int64_t M = p.N * p.P * p.Q;
  const double blocks =
      static_cast<double>(ceil_div(M, tile.m)) * ceil_div(p.K / p.groups, tile.n) * p.groups * plan.splits;
  const int resident =
      std::max(1, std::min(device.shared_memory_per_block / tile.shared_bytes, 1024 / tile.threads));
  const double waves = std::ceil(blocks / (static_cast<double>(device.multiprocessors) * resident));
  const double together = std::min<double>(resident, std::ceil(blocks / device.multiprocessors));
  const double steps = static_cast<double>(ceil_div(total_steps(p), plan.splits));
  const double row = Sm80Tile64x64::kRowBytes, block = row / element_size(p.dtype);
  const double products = together * tile.m * tile.n * block / (products_per_cycle * tile.efficiency);
  double cycles =
      waves *
      (steps * step_cycles(products, 0.0, together * (tile.m + tile.n) * row, plan.stages) + kTileCycles);
  if (plan.kernel == Conv2dKernel::sm80_gather) cycles *= 4;
  if (plan.splits > 1)  // partial sums go out and come in again, mostly within L2, by a second kernel
    cycles += 4000 + 8.0 * plan.splits * M * p.K / (kL2Bytes * device.multiprocessors);
  return cycles;
}

// Clock cycles that a plan is expected to take. Rough on purpose: it only has to order plans, and a measurement on
// the device overrules it.
double expected_cycles(const Conv2dProblem& p, const Conv2dPlan& plan, const Device& device) {
  const double computing = plan.kernel == Conv2dKernel::grouped ? grouped_cycles(p, device)
                           : is_sm90(plan)                      ? sm90_cycles(p, plan, device)
                                                                : sm80_cycles(p, plan, device);
  const double memory = memory_cycles(p, device) + kTileCycles;
  // What overlaps does so imperfectly; and of plans that memory bounds alike, the one with less to compute leads.
  return std::max(computing, memory) + 0.1 * std::min(computing, memory);
}

}  // namespace

std::string conv2d_plan_name(const Conv2dPlan& plan) {
  char text[96];
  snprintf(text, sizeof text, "%s/%dx%d/stages=%d/splits=%d/%s", kKernelNames[static_cast<int>(plan.kernel)],
           plan.tile_m, plan.tile_n, plan.stages, plan.splits,
           kModeNames[static_cast<int>(plan.float32_mode)]);
  return text;
}

double conv2d_plan_cycles(const Conv2dProblem& p, const Conv2dPlan& plan, const Device& device) {
  return expected_cycles(p, plan, device);
}

double conv2d_plan_share(const Conv2dProblem& p, const Conv2dPlan& plan, const Device& device) {
  double blocks = 1;
#ifdef FASTCNN_HOPPER
  if (is_sm90(plan)) {
    const Sm90Box box = plan.kernel == Conv2dKernel::sm90_resident ? sm90_resident_box(p) : sm90_box(p);
    blocks = static_cast<double>(box.tiles) * ceil_div(p.K, plan.tile_n);
  }
#endif
  if (const TileFacts* tile = find_tile(plan); tile && !is_sm90(plan))
    blocks = static_cast<double>(ceil_div(p.N * p.P * p.Q, tile->m)) * ceil_div(p.K / p.groups, tile->n) *
             p.groups * plan.splits;
  const double waves = std::ceil(blocks / device.multiprocessors);
  return blocks / (waves * device.multiprocessors);
}

Status conv2d_plan_from_name(const std::string& name, Conv2dPlan* plan) {
  char kernel[16], mode[16];
  if (sscanf(name.c_str(), "%15[^/]/%dx%d/stages=%d/splits=%d/%15s", kernel, &plan->tile_m, &plan->tile_n,
             &plan->stages, &plan->splits, mode) == 6) {
    for (int k = 0; k < 5; k++)
      for (int m = 0; m < 2; m++)
        if (std::string(kernel) == kKernelNames[k] && std::string(mode) == kModeNames[m]) {
          plan->kernel = static_cast<Conv2dKernel>(k);
          plan->float32_mode = static_cast<Float32Mode>(m);
          return Status();
        }
  }
  return make_status(StatusCode::invalid_argument,
                     "conv2d: \"%s\" is not a plan; one looks like sm80/128x64/stages=4/splits=1/tf32",
                     name.c_str());
}

std::string conv2d_plan_reason(const Conv2dProblem& p, const Conv2dPlan& plan, const Device& device) {
  const int64_t int_limit = INT32_MAX / 2, size = element_size(p.dtype);
  const int64_t depth = p.R * p.S * (p.C / p.groups);
  if (plan.kernel == Conv2dKernel::grouped) return grouped_reason(p, plan, device);
  if (is_sm90(plan)) {
#ifdef FASTCNN_HOPPER
    return sm90_reason(p, plan, device);
#else
    return "fastcnn was built without sm_90a";
#endif
  }
  if (device.major < 8)
    return "it needs compute capability 8.0, the device has " + std::to_string(device.major);
  const TileFacts* tile = find_tile(plan);
  if (!tile || plan.stages != kStages) return "there is no such tile";
  if ((is_strict(p, plan) || plan.kernel == Conv2dKernel::sm80_gather) &&
      (plan.tile_m != 64 || plan.tile_n != 64))
    return "strict float32 and unaligned tensors have one tile, 64x64";
  if (plan.kernel == Conv2dKernel::sm80 && (p.C / p.groups * size % 16 || p.x_stride * size % 16))
    return "it needs channels (per group) and the pixel stride to be multiples of 16 bytes";
  if (tile->shared_bytes > device.shared_memory_per_block)
    return number_reason("the tile's shared memory", tile->shared_bytes, device.shared_memory_per_block);
  if (plan.splits < 1 || plan.splits > total_steps(p))
    return number_reason("splits", plan.splits, total_steps(p));
  if (depth > int_limit) return number_reason("R S C / groups", depth, int_limit);
  if ((p.H + 2 * p.pad_h) * (p.W + 2 * p.pad_w) > int_limit)
    return number_reason("a padded image's pixel count", (p.H + 2 * p.pad_h) * (p.W + 2 * p.pad_w),
                         int_limit);
  if (p.dilation_h * p.R > int_limit || p.dilation_w * p.S > int_limit)
    return "the kernel's extent is too large";
  if (ceil_div(p.N * p.P * p.Q, tile->m) > INT32_MAX) return "there are too many output pixels";
  if (ceil_div(p.K / p.groups, tile->n) > 65535)
    return number_reason("K / groups", p.K / p.groups, 65535 * tile->n);
  if (p.groups * plan.splits > 65535)
    return number_reason("groups times splits", p.groups * plan.splits, 65535);
  return "";
}

std::vector<Conv2dPlan> conv2d_plans(const Conv2dProblem& p, const Device& device, Float32Mode mode) {
  std::vector<Conv2dPlan> plans;
  for (Conv2dKernel kernel : {Conv2dKernel::sm80, Conv2dKernel::sm80_gather})
    for (const TileFacts& tile : kTiles)
      for (int splits : {1, 2, 3, 4, 6, 8, 12, 16}) {
        if (splits > 1 && total_steps(p) / splits < 4) break;  // too little left to fill the pipeline
        const Conv2dPlan plan{kernel, mode, tile.m, tile.n, kStages, splits};
        if (conv2d_plan_reason(p, plan, device).empty()) plans.push_back(plan);
      }
  const Conv2dPlan grouped{Conv2dKernel::grouped, mode, kGroupedPixels, grouped_channels(p.dtype), 1, 1};
  if (conv2d_plan_reason(p, grouped, device).empty()) plans.push_back(grouped);
#ifdef FASTCNN_HOPPER
  auto add_sm90 = [&](Conv2dKernel kernel, const Sm90Width& width) {
    const Conv2dPlan plan{kernel, mode, 128, width.width, width.stages, 1};
    if (conv2d_plan_reason(p, plan, device).empty()) plans.push_back(plan);
  };
  add_sm90(Conv2dKernel::sm90_resident, sm90_resident_width());
  for (const Sm90Width& width : sm90_widths(p.dtype)) add_sm90(Conv2dKernel::sm90, width);
#endif
  std::stable_sort(plans.begin(), plans.end(), [&](const Conv2dPlan& a, const Conv2dPlan& b) {
    return expected_cycles(p, a, device) < expected_cycles(p, b, device);
  });
  return plans;
}

size_t conv2d_workspace_bytes(const Conv2dProblem& p, const Conv2dPlan& plan) {
  return plan.splits > 1 ? sizeof(float) * plan.splits * p.N * p.P * p.Q * p.K : 0;
}

Conv2dProblem conv2d_from_linear(const LinearProblem& linear) {
  Conv2dProblem p = {};
  p.dtype = linear.dtype;
  p.activation = linear.activation;
  p.has_bias = linear.has_bias;
  p.N = linear.N;
  p.C = linear.D;
  p.K = linear.M;
  p.H = p.W = p.R = p.S = p.P = p.Q = p.stride_h = p.stride_w = p.dilation_h = p.dilation_w = p.groups = 1;
  p.x_stride = linear.x_stride;
  p.y_stride = linear.y_stride;
  return p;
}

Status conv2d(const Conv2dProblem& p, const Conv2dPlan& asked, const void* x, const void* weight,
              const void* bias, const void* residual, void* y, void* workspace, void* stream) {
  if (p.N * p.P * p.Q * p.K == 0) return Status();
  Conv2dPlan plan = asked;
  const int64_t size = element_size(p.dtype);
  if (plan.kernel == Conv2dKernel::grouped && vectorises(size, {x, bias, residual, y}, {}))
    return conv2d_grouped(p, x, weight, bias, residual, y, stream);
#ifdef FASTCNN_HOPPER
  if (is_sm90(plan) && vectorises(size, {x, weight, bias, residual, y}, {}))
    return conv2d_sm90(p, plan, x, weight, bias, residual, y, stream);
#endif
  if (is_sm90(plan) || plan.kernel == Conv2dKernel::grouped) {
    plan.kernel = Conv2dKernel::sm80;
    plan.tile_m = plan.tile_n = 64;
  }
  if (plan.kernel != Conv2dKernel::sm80_gather &&
      !vectorises(size, {x, weight}, {p.C / p.groups, p.x_stride, p.R * p.S * p.C / p.groups})) {
    plan.kernel = Conv2dKernel::sm80_gather;
    plan.tile_m = plan.tile_n = 64;
  }
  if (plan.splits > 1 && !workspace)
    return make_status(StatusCode::invalid_argument, "conv2d: %d splits need a workspace of %zu bytes",
                       plan.splits, conv2d_workspace_bytes(p, plan));
  Conv2dSm80Params params = {};
  params.problem = p;
  params.x = x;
  params.weight = weight;
  params.epilogue = {p.has_bias ? bias : nullptr,
                     p.has_residual ? residual : nullptr,
                     y,
                     p.y_stride,
                     p.residual_stride,
                     p.activation,
                     vectorises(size, {bias, residual, y}, {p.K / p.groups, p.y_stride, p.residual_stride})};
  params.splits = plan.splits;
  params.steps_per_split = static_cast<int32_t>(ceil_div(total_steps(p), plan.splits));
  params.partial = plan.splits > 1 ? static_cast<float*>(workspace) : nullptr;
  Status status = p.dtype == DType::float32   ? run_sm80_float32(plan, params, stream)
                  : p.dtype == DType::float16 ? run_sm80_float16(plan, params, stream)
                                              : run_sm80_bfloat16(plan, params, stream);
  if (!status.ok() || plan.splits == 1) return status;
  const Conv2dReduceParams reduce{params.partial, params.epilogue, p.N * p.P * p.Q, p.K, plan.splits};
  return p.dtype == DType::float32   ? reduce_float32(reduce, stream)
         : p.dtype == DType::float16 ? reduce_float16(reduce, stream)
                                     : reduce_bfloat16(reduce, stream);
}

}  // namespace fastcnn::cuda
