#include "ops/int8/int8_cpu.h"
#include "python/bind.h"

namespace fastcnn {

static uint8_t* bytes(void* address) { return static_cast<uint8_t*>(address); }

Operation quantize_operation(const QuantizeProblem& p) {
  const int64_t last = (p.N - 1) * p.x_image + (p.pixels - 1) * p.x_stride + (p.C - 1) * p.x_channel;
  const int64_t elements = p.N * p.pixels * p.C;
  return {
      "quantize",
      "quantize",
      dims({p.N, p.pixels, p.C}),
      1e-9 * elements,
      0,
      {{"x", elements > 0 ? 4 * last + 4 : 0, false, true}, tensor("y", p.N * p.pixels, p.C, p.y_stride, 1)},
      [p](Addresses a, int threads) { FASTCNN_SELECT(quantize)(p, floats(a[0]), bytes(a[1]), threads); }};
}

Operation dequantize_operation(const DequantizeProblem& p) {
  return {
      "dequantize",
      "dequantize",
      dims({p.pixels, p.C}),
      1e-9 * p.pixels * p.C,
      0,
      {tensor("x", p.pixels, p.C, p.x_stride, 1), tensor("y", p.pixels, p.C, p.y_stride, 4)},
      [p](Addresses a, int threads) { FASTCNN_SELECT(dequantize)(p, bytes(a[0]), floats(a[1]), threads); }};
}

Operation byte_table_operation(const ByteTableProblem& p) {
  return {"byte_table",
          "byte_table",
          dims({p.pixels, p.C}),
          1e-9 * p.pixels * p.C,
          256,
          {tensor("x", p.pixels, p.C, p.x_stride, 1), constant("table"),
           tensor("y", p.pixels, p.C, p.y_stride, 1)},
          [p](Addresses a, int threads) {
            FASTCNN_SELECT(byte_table)(p, bytes(a[0]), bytes(a[1]), bytes(a[2]), threads);
          }};
}

Operation int8_add_operation(const Int8AddProblem& p) {
  return {"int8_add",
          "int8_add",
          dims({p.pixels, p.C}),
          4e-9 * p.pixels * p.C,
          0,
          {tensor("a", p.pixels, p.C, p.a_stride, 1), tensor("b", p.pixels, p.C, p.b_stride, 1),
           tensor("y", p.pixels, p.C, p.y_stride, 1)},
          [p](Addresses a, int threads) {
            FASTCNN_SELECT(int8_add)(p, bytes(a[0]), bytes(a[1]), bytes(a[2]), threads);
          }};
}

Operation int8_pool2d_operation(const Int8PoolProblem& p) {
  return {
      p.mode == PoolMode::max ? "int8_max_pool2d" : "int8_avg_pool2d",
      "int8_pool2d",
      dims({p.N, p.H, p.W, p.C}) + " * " + dims({p.kernel_h, p.kernel_w}),
      1e-9 * p.N * p.P * p.Q * p.C * p.kernel_h * p.kernel_w,
      0,
      {tensor("x", p.N * p.H * p.W, p.C, p.x_stride, 1), tensor("y", p.N * p.P * p.Q, p.C, p.y_stride, 1)},
      [p](Addresses a, int threads) { FASTCNN_SELECT(int8_pool2d)(p, bytes(a[0]), bytes(a[1]), threads); }};
}

FASTCNN_BIND(m) {
  FASTCNN_PROBLEM(m, QuantizeProblem, N, pixels, C, x_image, x_stride, x_channel, y_stride, inverse_scale,
                  zero);
  FASTCNN_PROBLEM(m, DequantizeProblem, pixels, C, x_stride, y_stride, scale, zero);
  FASTCNN_PROBLEM(m, ByteTableProblem, pixels, C, x_stride, y_stride);
  FASTCNN_PROBLEM(m, Int8AddProblem, pixels, C, a_stride, b_stride, y_stride, a_scale, b_scale, a_zero,
                  b_zero, y_zero, low, high);
  FASTCNN_PROBLEM(m, Int8PoolProblem, mode, N, H, W, C, P, Q, kernel_h, kernel_w, stride_h, stride_w, pad_h,
                  pad_w, dilation_h, dilation_w, count_include_pad, divisor_override, x_stride, y_stride,
                  scale, x_zero, y_zero);
  bind(m, "quantize", quantize_operation);
  bind(m, "dequantize", dequantize_operation);
  bind(m, "byte_table", byte_table_operation);
  bind(m, "int8_add", int8_add_operation);
  bind(m, "int8_pool2d", int8_pool2d_operation);
}

}  // namespace fastcnn
