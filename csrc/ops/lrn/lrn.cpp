#include <stdexcept>

#include "ops/lrn/lrn_cpu.h"
#include "python/bind.h"

namespace fastcnn {

Operation lrn_operation(const LrnProblem& p) {
  return {"local_response_norm",
          "lrn",
          dims({p.pixels, p.C}),
          1e-9 * p.pixels * p.C * (p.size + 5),
          0,
          {tensor("x", p.pixels, p.C, p.x_stride, p.dtype), tensor("y", p.pixels, p.C, p.y_stride, p.dtype)},
          [p](Addresses a, int threads) { FASTCNN_SELECT(lrn)(p, a[0], a[1], threads); }};
}

Operation lrn_max_pool2d_operation(const LrnProblem& p, const Pool2dProblem& pool) {
  if (p.pixels != pool.N * pool.H * pool.W || p.C != pool.C || p.dtype != pool.dtype)
    throw std::invalid_argument("lrn_max_pool2d: the pool's input is not the LRN's output");
  return {
      "local_response_norm + max_pool2d",
      "lrn_max_pool2d",
      dims({pool.N, pool.H, pool.W, pool.C}),
      1e-9 * p.pixels * p.C * (p.size + 5),
      0,
      {tensor("x", p.pixels, p.C, p.x_stride, p.dtype),
       tensor("y", pool.N * pool.P * pool.Q, p.C, pool.y_stride, p.dtype)},
      [p, pool](Addresses a, int threads) { FASTCNN_SELECT(lrn_max_pool2d)(p, pool, a[0], a[1], threads); }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, LrnProblem, dtype, pixels, C, size, alpha, beta, k, x_stride, y_stride);
  bind(m, "lrn", lrn_operation);
  bind(m, "lrn_max_pool2d", lrn_max_pool2d_operation);
}

}  // namespace fastcnn
