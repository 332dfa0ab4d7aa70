#include "ops/subsample2d/subsample2d_cpu.h"
#include "python/bind.h"

namespace fastcnn {

Operation subsample2d_operation(const Subsample2dProblem& p) {
  return {"subsample2d",
          "subsample2d",
          dims({p.N, p.H, p.W, p.C}) + " / " + dims({p.kernel_size}),
          1e-9 * p.N * p.H * p.W * p.C,
          0,
          {tensor("x", p.N * p.H * p.W, p.C, p.x_stride, p.dtype), constant("coefficient"),
           constant("bias", false), tensor("y", p.N * p.P * p.Q, p.C, p.y_stride, p.dtype)},
          [p](Addresses a, int threads) {
            FASTCNN_SELECT(subsample2d)(p, a[0], floats(a[1]), floats(a[2]), a[3], threads);
          }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, Subsample2dProblem, dtype, activation, N, H, W, C, P, Q, kernel_size, x_stride,
                  y_stride);
  bind(m, "subsample2d", subsample2d_operation);
}

}  // namespace fastcnn
