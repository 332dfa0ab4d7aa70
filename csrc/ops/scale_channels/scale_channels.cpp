#include "ops/scale_channels/scale_channels_cpu.h"
#include "python/bind.h"

namespace fastcnn {

Operation scale_channels_operation(const ScaleChannelsProblem& p) {
  const int64_t pixels = p.N * p.pixels;
  return {
      "scale_channels",
      "scale_channels",
      dims({p.N, p.pixels, p.C}),
      2e-9 * pixels * p.C,
      0,
      {tensor("x", pixels, p.C, p.x_stride, p.dtype), tensor("scale", p.N, p.C, p.C, p.dtype),
       tensor("residual", p.has_residual ? pixels : 0, p.C, p.residual_stride, p.dtype),
       tensor("y", pixels, p.C, p.y_stride, p.dtype)},
      [p](Addresses a, int threads) { FASTCNN_SELECT(scale_channels)(p, a[0], a[1], a[2], a[3], threads); }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, ScaleChannelsProblem, dtype, activation, has_residual, N, pixels, C, x_stride,
                  residual_stride, y_stride);
  bind(m, "scale_channels", scale_channels_operation);
}

}  // namespace fastcnn
