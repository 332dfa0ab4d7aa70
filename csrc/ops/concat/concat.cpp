#include <stdexcept>

#include "ops/concat/concat_cpu.h"
#include "python/bind.h"

namespace fastcnn {

Operation copy_slice_operation(const CopySliceProblem& p) {
  return {"concat",
          "copy_slice",
          dims({p.pixels, p.C}),
          0,
          0,
          {tensor("x", p.pixels, p.C, p.x_stride, p.element_size),
           tensor("y", p.pixels, p.C, p.y_stride, p.element_size)},
          [p](Addresses a, int threads) { FASTCNN_SELECT(copy_slice)(p, a[0], a[1], threads); }};
}

Operation concat_operation(const std::vector<CopySliceProblem>& slices) {
  if (slices.empty()) throw std::invalid_argument("concat: no slices; at least one is needed");
  const CopySliceProblem& first = slices[0];
  const auto count = static_cast<int64_t>(slices.size());
  int64_t C = 0;
  std::vector<Operand> operands;
  for (const CopySliceProblem& p : slices) {
    operands.push_back(tensor("x", p.pixels, p.C, p.x_stride, p.element_size));
    C += p.C;
  }
  operands.push_back(tensor("y", first.pixels, C, first.y_stride, first.element_size));
  return {"concat",
          "concat",
          dims({first.pixels, C}),
          0,
          0,
          std::move(operands),
          [slices, count](Addresses a, int threads) {
            FASTCNN_SELECT(concat)(slices.data(), a, count, a[count], threads);
          }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, CopySliceProblem, element_size, pixels, C, x_stride, y_stride);
  bind(m, "copy_slice", copy_slice_operation);
  bind(m, "concat", concat_operation);
}

}  // namespace fastcnn
