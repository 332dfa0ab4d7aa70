#include <algorithm>

#include "cuda/tensor_map.h"
#include "ops/conv2d/conv2d_sm90_cuda.h"
#include "ops/conv2d/conv2d_sm90_resident_cuda.cuh"

namespace fastcnn::cuda {

std::vector<Sm90Width> sm90_widths(DType dtype) {
#define FASTCNN_WIDTH(type, n) {n, Sm90Tile<type, n>::kStages, Sm90Tile<type, n>::kSharedBytes},
#define FASTCNN_WIDTH_16BIT(n) FASTCNN_WIDTH(__half, n)
#define FASTCNN_WIDTH_32BIT(n) FASTCNN_WIDTH(float, n)
  const std::vector<Sm90Width> half = {FASTCNN_SM90_WIDTHS_16BIT(FASTCNN_WIDTH_16BIT)};
  const std::vector<Sm90Width> single = {FASTCNN_SM90_WIDTHS_32BIT(FASTCNN_WIDTH_32BIT)};
#undef FASTCNN_WIDTH_32BIT
#undef FASTCNN_WIDTH_16BIT
#undef FASTCNN_WIDTH
  return dtype == DType::float32 ? single : half;
}

Sm90Box sm90_box(const Conv2dProblem& p) {
  Sm90Box best = {};
  for (int log_w = 7; log_w >= 0; log_w--)
    for (int log_h = 7 - log_w; log_h >= 0; log_h--) {
      const int log_n = 7 - log_w - log_h;
      // The copy engine spans at most 256 elements before it thins them out by the stride.
      if ((p.stride_w << log_w) > 256 || (p.stride_h << log_h) > 256) continue;
      const int64_t tiles = ceil_div(p.Q, int64_t{1} << log_w) * ceil_div(p.P, int64_t{1} << log_h) *
                            ceil_div(p.N, int64_t{1} << log_n);
      if (best.tiles == 0 || tiles < best.tiles) best = {log_w, log_h, log_n, tiles};
    }
  return best;
}

Sm90Box sm90_resident_box(const Conv2dProblem& p) {
  const int64_t wide = ceil_div(p.Q, 16) * ceil_div(p.P, 8), tall = ceil_div(p.Q, 8) * ceil_div(p.P, 16);
  return tall < wide ? Sm90Box{3, 4, 0, tall * p.N} : Sm90Box{4, 3, 0, wide * p.N};
}

Sm90Width sm90_resident_width() {
  using Tile = Sm90ResidentTile<__half>;
  return {Tile::kN, Tile::kStages, Tile::kSharedBytes};
}

std::string sm90_reason(const Conv2dProblem& p, const Conv2dPlan& plan, const Device& device) {
  const int64_t size = p.dtype == DType::float32 ? 4 : 2, limit = INT32_MAX / 2;
  if (device.major != 9) return "it is compiled for compute capability 9.0 alone";
  if (p.dtype == DType::float32 && plan.float32_mode == Float32Mode::strict)
    return "wgmma multiplies float32 as tf32, and strict float32 is asked for";
  const bool resident = plan.kernel == Conv2dKernel::sm90_resident;
  if (resident) {
    if (p.dtype == DType::float32) return "it has no float32";
    if (p.C * size > kSm90RowBytes || p.K > kSm90ResidentN) return "it has at most 64 channels on each side";
    if (p.R != 3 || p.S != 3) return "its filter is 3x3";
    if (p.stride_h != 1 || p.stride_w != 1 || p.dilation_h != 1 || p.dilation_w != 1)
      return "it has no strides and no dilation";
  }
  const auto widths = resident ? std::vector<Sm90Width>{sm90_resident_width()} : sm90_widths(p.dtype);
  const auto width = std::find_if(widths.begin(), widths.end(), [&](const Sm90Width& w) {
    return w.width == plan.tile_n && w.stages == plan.stages && plan.tile_m == kSm90Pixels;
  });
  if (width == widths.end()) return "there is no such tile";
  if (plan.splits != 1) return "its sum cannot be split";
  if (p.groups != 1) return "it has no groups";
  // The other functions, unrolled over a tile's accumulators, made up most of the code; LeNet-5 alone has
  // them, in layers too narrow for this kernel.
  if (p.activation != Activation::none && p.activation != Activation::relu)
    return "it has no activation but relu";
  if (p.stride_h > 8 || p.stride_w > 8) return "its strides go up to 8";
  for (int64_t extent : {p.C, p.K, p.x_stride, p.y_stride, p.residual_stride})
    if (extent * size % 16)
      return "it needs input and output channels and pixel strides in multiples of 16 bytes";
  if (p.N > limit || p.H > limit || p.W > limit || p.K > limit || p.R * p.S > limit / 64 ||
      p.R * p.S * p.C > limit || p.dilation_h * p.R > limit || p.dilation_w * p.S > limit)
    return "a dimension passes 2^30";
  if (p.H * p.W * p.x_stride * size >= int64_t{1} << 40) return "an image passes 2^40 bytes";
  return "";
}

Status conv2d_sm90(const Conv2dProblem& p, const Conv2dPlan& plan, const void* x, const void* weight,
                   const void* bias, const void* residual, void* y, void* stream) {
  const uint64_t size = p.dtype == DType::float32 ? 4 : 2;
  const bool resident = plan.kernel == Conv2dKernel::sm90_resident;
  const Sm90Box box = resident ? sm90_resident_box(p) : sm90_box(p);
  const uint32_t w = 1u << box.log_w, h = 1u << box.log_h, n = 1u << box.log_n;
  Conv2dSm90Params params = {};
  params.problem = p;
  params.bias = p.has_bias ? bias : nullptr;
  params.log_tile_w = box.log_w;
  params.log_tile_h = box.log_h;
  // A tile's pixels lie by image, row, column; the second warpgroup's half cuts the first of these that can
  // be cut.
  uint32_t half_w = w, half_h = h, half_n = n;
  if (n > 1)
    params.half_n = half_n = n / 2;
  else if (h > 1)
    params.half_h = half_h = h / 2;
  else
    params.half_w = half_w = w / 2;
  params.tiles_w = static_cast<int32_t>(ceil_div(p.Q, w));
  params.tiles_h = static_cast<int32_t>(ceil_div(p.P, h));
  params.tiles_k = static_cast<int32_t>(ceil_div(p.K, plan.tile_n));
  params.tiles = box.tiles * params.tiles_k;
  const uint32_t block = kSm90RowBytes / size;
  params.channel_blocks = static_cast<int32_t>(ceil_div(p.C, block));

  auto image_map = [&](const void* base, int64_t channels, int64_t width, int64_t height, int64_t stride) {
    TensorMapRequest request = {p.dtype, 4, base, {}, {}, {}, {1, 1, 1, 1}, 128, false};
    const int64_t sizes[] = {channels, width, height, p.N},
                  strides[] = {stride, width * stride, height * width * stride};
    for (int i = 0; i < 4; i++) request.size[i] = sizes[i];
    for (int i = 0; i < 3; i++) request.stride_bytes[i] = strides[i] * size;
    return request;
  };
  auto output_map = [&](const void* base, int64_t stride) {
    TensorMapRequest request = image_map(base, p.K, p.Q, p.P, stride);
    const int row = plan.tile_n * static_cast<int>(size);
    request.swizzle_bytes = row % 128 == 0 ? 128 : row % 64 == 0 ? 64 : 32;
    const uint32_t boxes[] = {request.swizzle_bytes / static_cast<uint32_t>(size), half_w, half_h, half_n};
    std::copy_n(boxes, 4, request.box);
    return request;
  };
  TensorMapRequest input = image_map(x, p.C, p.W, p.H, p.x_stride);
  const uint32_t input_box[] = {block, w, resident ? h + 2 : h, n};
  std::copy_n(input_box, 4, input.box);
  input.step[1] = static_cast<uint32_t>(p.stride_w);
  input.step[2] = static_cast<uint32_t>(p.stride_h);
  input.rounds_to_tf32 = true;
  const uint64_t taps = p.R * p.S, C = p.C;
  const TensorMapRequest filter = {p.dtype,
                                   3,
                                   weight,
                                   {C, taps, static_cast<uint64_t>(p.K)},
                                   {C * size, taps * C * size},
                                   {block, 1, static_cast<uint32_t>(plan.tile_n)},
                                   {1, 1, 1},
                                   128,
                                   true};
  Status status = encode_tensor_map(input, &params.x);
  if (status.ok()) status = encode_tensor_map(filter, &params.weight);
  if (status.ok()) status = encode_tensor_map(output_map(y, p.y_stride), &params.y);
  if (status.ok() && p.has_residual)
    status = encode_tensor_map(output_map(residual, p.residual_stride), &params.residual);
  int multiprocessors = 0;
  if (status.ok()) status = current_multiprocessors(&multiprocessors);
  if (!status.ok()) return status;
  const int blocks = static_cast<int>(std::min<int64_t>(params.tiles, multiprocessors));
  return p.dtype == DType::float32   ? run_sm90_float32(plan, params, blocks, stream)
         : p.dtype == DType::float16 ? run_sm90_float16(plan, params, blocks, stream)
                                     : run_sm90_bfloat16(plan, params, blocks, stream);
}

}  // namespace fastcnn::cuda
