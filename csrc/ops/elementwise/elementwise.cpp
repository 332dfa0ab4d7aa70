#include <stdexcept>

#include "ops/elementwise/elementwise_cpu.h"
#include "python/bind.h"

namespace fastcnn {

static const char* name_of(Elementwise function) {
  switch (function) {
#define FASTCNN_ROW(name, number, increasing, cpu, gpu) \
  case Elementwise::name:                               \
    return #name;
    FASTCNN_ACTIVATIONS(FASTCNN_ROW)
#undef FASTCNN_ROW
    case Elementwise::add:
      return "add";
    case Elementwise::scale_channels:
      return "scale_channels";
  }
  return "?";
}

Operation elementwise_operation(const ElementwiseProblem& p) {
  const bool scale = p.function == Elementwise::scale_channels;
  if (scale && (p.pixels_per_image < 1 || p.pixels % p.pixels_per_image))
    throw std::invalid_argument("scale_channels: pixels_per_image is " + std::to_string(p.pixels_per_image) +
                                ", must divide pixels = " + std::to_string(p.pixels));
  const int64_t b_pixels = scale                            ? p.pixels / p.pixels_per_image
                           : p.function == Elementwise::add ? p.pixels
                                                            : 0;
  return {name_of(p.function),
          "elementwise",
          dims({p.pixels, p.C}),
          1e-9 * p.pixels * p.C,
          0,
          {tensor("a", p.pixels, p.C, p.a_stride, p.dtype), tensor("b", b_pixels, p.C, p.b_stride, p.dtype),
           tensor("y", p.pixels, p.C, p.y_stride, p.dtype)},
          [p](Addresses a, int threads) { FASTCNN_SELECT(elementwise)(p, a[0], a[1], a[2], threads); }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, ElementwiseProblem, dtype, function, pixels, C, a_stride, b_stride, y_stride,
                  pixels_per_image);
  bind(m, "elementwise", elementwise_operation);
}

}  // namespace fastcnn
