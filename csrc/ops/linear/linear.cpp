#include "ops/linear/linear_cpu.h"
#include "python/bind.h"

namespace fastcnn {

Operation linear_operation(const LinearProblem& p) {
  return {"linear",
          p.N == 1 ? "gemv" : "gemm",
          dims({p.N, p.D}) + " * " + dims({p.M}),
          2e-9 * p.N * p.D * p.M,
          p.M * p.D * size_of(p.weight_dtype),
          {tensor("x", p.N, p.D, p.x_stride, p.dtype), constant("weight", p.D > 0),
           constant("bias", p.has_bias), tensor("y", p.N, p.M, p.y_stride, p.dtype)},
          [p](Addresses a, int threads) { linear(p, a[0], a[1], floats(a[2]), a[3], threads); }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, LinearProblem, dtype, weight_dtype, activation, has_bias, N, D, M, x_stride,
                  weight_stride, y_stride);
  bind(m, "linear", linear_operation);
}

}  // namespace fastcnn
