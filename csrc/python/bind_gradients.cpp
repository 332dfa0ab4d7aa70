#include <functional>
#include <stdexcept>
#include <utility>

#include "ops/batch_norm/batch_norm_cpu.h"
#include "ops/bias_activation/bias_activation_gradient_cpu.h"
#include "ops/conv2d/weight_gradient_cpu.h"
#include "ops/lrn/lrn_gradient_cpu.h"
#include "ops/pool/pool_gradient_cpu.h"
#include "ops/subsample2d/subsample2d_gradient_cpu.h"
#include "python/bind.h"

namespace fastcnn {

// Training: kernels of several outputs, whose tensors all come from the caller.
FASTCNN_BIND(module) {
  FASTCNN_PROBLEM(module, BiasActivationProblem, dtype, activation, pixels, C, dy_stride, y_stride);
  FASTCNN_PROBLEM(module, BatchNormProblem, dtype, relu, has_residual, pixels, C, eps, momentum, x_stride,
                  residual_stride, dy_stride);
  py::module_& m = module.cpu;
  auto bound = [](Py_ssize_t inputs, std::function<void(Addresses)> run) {
    return python::bound(inputs, std::move(run), py::none());
  };
  const py::arg problem("problem"), threads("threads");
  m.def(
      "conv2d_weight_gradient",
      [=](const Conv2dProblem& problem, bool contiguous, int threads, bool winograd) {
        if (winograd && ((problem.R != 3 && problem.R != 5) || problem.S != problem.R))
          throw std::invalid_argument("conv2d_weight_gradient: winograd needs a 3x3 or 5x5 kernel");
        return bound(2, [=](Addresses a) {
          (winograd ? FASTCNN_SELECT(winograd_weight_gradient) : FASTCNN_SELECT(conv2d_weight_gradient))(
              problem, a[0], a[1], static_cast<float*>(a[2]), contiguous, threads);
        });
      },
      problem, py::arg("contiguous"), threads, py::arg("winograd") = false, "(x, dy, dw)");
  m.def(
      "bias_activation_gradient",
      [=](const BiasActivationProblem& problem, int threads) {
        return bound(3, [=](Addresses a) {
          FASTCNN_SELECT(bias_activation_gradient)
          (problem, a[0], a[1], a[2], static_cast<float*>(a[3]), threads);
        });
      },
      problem, threads, "(dy, y, dz, db)");
  m.def(
      "lrn_gradient",
      [=](const LrnProblem& problem, int threads) {
        return bound(2,
                     [=](Addresses a) { FASTCNN_SELECT(lrn_gradient)(problem, a[0], a[1], a[2], threads); });
      },
      problem, threads, "(x, dy, dx)");
  m.def(
      "max_pool2d_taps",
      [=](const Pool2dProblem& problem, int threads) {
        return bound(2, [=](Addresses a) {
          FASTCNN_SELECT(max_pool2d_taps)(problem, a[0], a[1], static_cast<uint8_t*>(a[2]), threads);
        });
      },
      problem, threads, "(x, y, taps)");
  m.def(
      "pool2d_gradient",
      [=](const Pool2dProblem& problem, int threads) {
        return bound(2, [=](Addresses a) {
          FASTCNN_SELECT(pool2d_gradient)(problem, static_cast<uint8_t*>(a[0]), a[1], a[2], threads);
        });
      },
      problem, threads, "(taps, dy, dx)");
  m.def(
      "adaptive_avg_pool2d_gradient",
      [=](const AdaptiveAvgPool2dProblem& problem, int threads) {
        return bound(1, [=](Addresses a) {
          FASTCNN_SELECT(adaptive_avg_pool2d_gradient)(problem, a[0], a[1], threads);
        });
      },
      problem, threads, "(dy, dx)");
  m.def(
      "subsample2d_gradient",
      [=](const Subsample2dProblem& problem, int threads) {
        return bound(4, [=](Addresses a) {
          FASTCNN_SELECT(subsample2d_gradient)
          (problem, a[0], static_cast<float*>(a[1]), a[2], a[3], static_cast<float*>(a[4]), threads);
        });
      },
      problem, threads, "(x, coefficient, dy, dx, dcoefficient)");
  auto norm = [](Addresses a) {
    auto floats = [=](int i) { return static_cast<float*>(a[i]); };
    return BatchNormPointers{a[0],      floats(1), floats(2), a[3], floats(4),
                             floats(5), floats(6), floats(7), a[8]};
  };
  m.def(
      "batch_norm",
      [=](const BatchNormProblem& problem, int threads) {
        return bound(8, [=](Addresses a) { FASTCNN_SELECT(batch_norm)(problem, norm(a), threads); });
      },
      problem, threads, "(x, weight, bias, residual, running_mean, running_var, mean, inv_std, y)");
  m.def(
      "batch_norm_gradient",
      [=](const BatchNormProblem& problem, int threads) {
        return bound(13, [=](Addresses a) {
          const BatchNormGradients gradients{a[9], a[10], a[11], static_cast<float*>(a[12]),
                                             static_cast<float*>(a[13])};
          FASTCNN_SELECT(batch_norm_gradient)(problem, norm(a), gradients, threads);
        });
      },
      problem, threads,
      "(x, weight, bias, residual, None, None, mean, inv_std, y, dy, dx, dresidual, dweight, dbias)");
}

}  // namespace fastcnn
