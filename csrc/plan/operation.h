// An operator on the CPU as one value, made from its problem. A plan runs it, a call from Python runs it.
//
// To add an operator `scale`: a problem struct; the kernel (cpu/isa.h); and one file, ops/scale/scale.cpp, with
//
//   Operation scale_operation(const ScaleProblem& p) {
//     return {"scale", "scale", dims({p.pixels, p.C}), 1e-9 * p.pixels * p.C, 0,
//             {tensor("x", p.pixels, p.C, p.x_stride, p.dtype), constant("factor"),
//              tensor("y", p.pixels, p.C, p.y_stride, p.dtype)},
//             [p](Addresses a, int threads) { FASTCNN_SELECT(scale)(p, a[0], floats(a[1]), a[2], threads); }};
//   }
//
//   FASTCNN_BIND(m) {
//     FASTCNN_PROBLEM(m, ScaleProblem, dtype, pixels, C, x_stride, y_stride);
//     bind(m, "scale", scale_operation);
//   }
//
// From the last three lines (python/bind.h) come _C.ScaleProblem, _C.cpu.scale(problem, threads, output) -> a
// callable of (x, factor, y), and Plan.scale(problem, x, factor, y).
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/problem.h"

namespace fastcnn {

// A tensor that the operation reads or writes, or a constant that it reads. The last one is the output.
struct Operand {
  const char* name;
  int64_t extent;  // bytes from a tensor's first to its last element; 0 where there is none
  bool is_constant, is_needed;
};

using Addresses = void* const*;  // one an operand, in order; null where there is none

struct Operation {
  std::string op, kernel, shape;  // for people: what it computes, by which kernel, of which sizes
  double gflop;
  int64_t constant_bytes;  // read beside the tensors
  std::vector<Operand> operands;
  std::function<void(Addresses addresses, int threads)> run;
};

inline int64_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

// (pixels, C) elements, pixels `stride` elements apart.
inline Operand tensor(const char* name, int64_t pixels, int64_t C, int64_t stride, int64_t element_size) {
  return {name, pixels > 0 && C > 0 ? ((pixels - 1) * stride + C) * element_size : 0, false, true};
}
inline Operand tensor(const char* name, int64_t pixels, int64_t C, int64_t stride, DType dtype) {
  return tensor(name, pixels, C, stride, size_of(dtype));
}
inline Operand constant(const char* name, bool needed = true) { return {name, 0, true, needed}; }

inline float* floats(void* address) { return static_cast<float*>(address); }

// "1x28x28x6"
inline std::string dims(std::initializer_list<int64_t> sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text;
}

}  // namespace fastcnn
