#include "ops/rbf/rbf_cpu.h"
#include "python/bind.h"

namespace fastcnn {

Operation rbf_operation(const RbfProblem& p) {
  return {"rbf",
          "rbf",
          dims({p.N, p.D}) + " - " + dims({p.M}),
          3e-9 * p.N * p.D * p.M,
          p.M * p.D * 4,
          {tensor("x", p.N, p.D, p.x_stride, p.dtype), constant("centers", p.M * p.D > 0),
           tensor("y", p.N, p.M, p.y_stride, p.dtype)},
          [p](Addresses a, int threads) { FASTCNN_SELECT(rbf)(p, a[0], floats(a[1]), a[2], threads); }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, RbfProblem, dtype, N, D, M, x_stride, y_stride);
  bind(m, "rbf", rbf_operation);
}

}  // namespace fastcnn
