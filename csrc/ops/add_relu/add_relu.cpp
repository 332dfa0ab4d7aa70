#include "ops/add_relu/add_relu_cpu.h"
#include "python/bind.h"

namespace fastcnn {

Operation add_relu_operation(const AddReluProblem& p) {
  return {"add_relu",
          "add_relu",
          dims({p.pixels, p.C}),
          1e-9 * p.pixels * p.C,
          0,
          {tensor("a", p.pixels, p.C, p.a_stride, p.dtype), tensor("b", p.pixels, p.C, p.b_stride, p.dtype),
           tensor("y", p.pixels, p.C, p.y_stride, p.dtype)},
          [p](Addresses a, int threads) { FASTCNN_SELECT(add_relu)(p, a[0], a[1], a[2], threads); }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, AddReluProblem, dtype, pixels, C, a_stride, b_stride, y_stride);
  bind(m, "add_relu", add_relu_operation);
}

}  // namespace fastcnn
