#include "ops/pool/pool_cpu.h"
#include "python/bind.h"

namespace fastcnn {

Operation pool2d_operation(const Pool2dProblem& p) {
  return {p.mode == PoolMode::max ? "max_pool2d" : "avg_pool2d",
          "pool2d",
          dims({p.N, p.H, p.W, p.C}) + " * " + dims({p.kernel_h, p.kernel_w}),
          1e-9 * p.N * p.P * p.Q * p.C * p.kernel_h * p.kernel_w,
          0,
          {tensor("x", p.N * p.H * p.W, p.C, p.x_stride, p.dtype),
           tensor("y", p.N * p.P * p.Q, p.C, p.y_stride, p.dtype)},
          [p](Addresses a, int threads) { FASTCNN_SELECT(pool2d)(p, a[0], a[1], threads); }};
}

Operation adaptive_avg_pool2d_operation(const AdaptiveAvgPool2dProblem& p) {
  return {"adaptive_avg_pool2d",
          "adaptive_avg_pool2d",
          dims({p.N, p.H, p.W, p.C}) + " -> " + dims({p.P, p.Q}),
          1e-9 * p.N * p.H * p.W * p.C,
          0,
          {tensor("x", p.N * p.H * p.W, p.C, p.x_stride, p.dtype),
           tensor("y", p.N * p.P * p.Q, p.C, p.y_stride, p.dtype)},
          [p](Addresses a, int threads) { FASTCNN_SELECT(adaptive_avg_pool2d)(p, a[0], a[1], threads); }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, Pool2dProblem, dtype, mode, N, H, W, C, P, Q, kernel_h, kernel_w, stride_h, stride_w,
                  pad_h, pad_w, dilation_h, dilation_w, count_include_pad, divisor_override, x_stride,
                  y_stride);
  FASTCNN_PROBLEM(m, AdaptiveAvgPool2dProblem, dtype, N, H, W, C, P, Q, x_stride, y_stride);
  bind(m, "pool2d", pool2d_operation);
  bind(m, "adaptive_avg_pool2d", adaptive_avg_pool2d_operation);
}

}  // namespace fastcnn
