#include "plan/plan.h"

#include <algorithm>
#include <stdexcept>

#include "cpu/thread_pool.h"
#include "ops/add_relu/add_relu_cpu.h"
#include "ops/concat/concat_cpu.h"
#include "ops/elementwise/elementwise_cpu.h"
#include "ops/layout/layout_cpu.h"
#include "ops/lrn/lrn_cpu.h"
#include "ops/pool/pool_cpu.h"
#include "ops/rbf/rbf_cpu.h"
#include "ops/subsample2d/subsample2d_cpu.h"

namespace fastcnn {
namespace {

constexpr size_t kMaxOperands = 3;
constexpr int64_t kAlignment = 64;

int64_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

// Bytes from the first to the last element of (pixels, C).
int64_t extent(int64_t pixels, int64_t C, int64_t stride, int64_t element) {
  return pixels > 0 && C > 0 ? ((pixels - 1) * stride + C) * element : 0;
}
int64_t extent(int64_t pixels, int64_t C, int64_t stride, DType dtype) {
  return extent(pixels, C, stride, size_of(dtype));
}

std::string dims(std::initializer_list<int64_t> sizes) {
  std::string text;
  for (int64_t size : sizes) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text;
}

const char* name_of(Elementwise function) {
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

}  // namespace

int Plan::declare(Kind kind, int64_t bytes) {
  if (arena_bytes_ >= 0) throw std::invalid_argument("plan: finalized, it cannot change");
  if (bytes < 0) throw std::invalid_argument("plan: a buffer of " + std::to_string(bytes) + " bytes");
  const int index = kind == Kind::input ? inputs_++ : kind == Kind::output ? outputs_++ : 0;
  buffers_.push_back({kind, bytes, index});
  return static_cast<int>(buffers_.size()) - 1;
}

int Plan::buffer(int64_t bytes) { return declare(Kind::arena, bytes); }
int Plan::input(int64_t bytes) { return declare(Kind::input, bytes); }
int Plan::output(int64_t bytes) { return declare(Kind::output, bytes); }

void Plan::add(Description description, std::vector<Operand> operands,
               std::function<void(Pointers, int)> call) {
  if (arena_bytes_ >= 0) throw std::invalid_argument("plan: finalized, it cannot change");
  auto fail = [&](const Operand& operand, const std::string& what) {
    throw std::invalid_argument("plan: " + description.op + " " + description.shape + ": " + operand.name +
                                " " + what);
  };
  for (const Operand& operand : operands) {
    const Place& place = operand.place;
    if (place.buffer < 0 && operand.extent == 0) continue;  // absent
    if (place.buffer < 0 || place.buffer >= static_cast<int>(buffers_.size()))
      fail(operand,
           "is in buffer " + std::to_string(place.buffer) + ", there are " + std::to_string(buffers_.size()));
    Buffer& buffer = buffers_[place.buffer];
    if (place.offset < 0 || place.offset + operand.extent > buffer.bytes)
      fail(operand, "takes bytes " + std::to_string(place.offset) + " to " +
                        std::to_string(place.offset + operand.extent) + " of buffer " +
                        std::to_string(place.buffer) + ", which has " + std::to_string(buffer.bytes));
    description.bytes += operand.extent;
    if (buffer.first < 0) buffer.first = static_cast<int>(ops_.size());
    buffer.last = static_cast<int>(ops_.size());
  }
  ops_.push_back({description, description.gflop * 1e9, std::move(operands), std::move(call)});
}

void Plan::conv2d(const Conv2d& conv, Place x, const void* weight, WeightForm form, const float* bias,
                  Place residual, Place y) {
  const Conv2dProblem& p = conv.problem();
  if (!weight) throw std::invalid_argument("plan: conv2d: the address of weight is 0");
  if (p.has_bias && !bias)
    throw std::invalid_argument("plan: conv2d: the problem has a bias, its address is 0");
  const int64_t outputs = p.N * p.P * p.Q;
  const int64_t written = conv.max_pool() ? p.N * (p.P / 2) * (p.Q / 2) : outputs;
  add({conv.max_pool() ? "conv2d + max_pool2d" : "conv2d", conv.name(),
       dims({p.N, p.H, p.W, p.C}) + " * " + dims({p.K, p.R, p.S}),
       2e-9 * outputs * p.K * p.R * p.S * p.C / p.groups,
       form == WeightForm::packed ? conv.packed_bytes() : p.K * (p.C / p.groups) * p.R * p.S * 4},
      {{"x", x, extent(p.N * p.H * p.W, p.C, p.x_stride, p.dtype)},
       {"residual", residual, p.has_residual ? extent(outputs, p.K, p.residual_stride, p.dtype) : 0},
       {"y", y, extent(written, p.K, p.y_stride, p.dtype)}},
      [conv, weight, form, bias](Pointers at, int threads) {
        conv.run(at[0], weight, form, bias, at[1], at[2], threads);
      });
}

void Plan::linear(const LinearProblem& p, Place x, const void* weight, const float* bias, Place y) {
  if (p.has_bias && !bias)
    throw std::invalid_argument("plan: linear: the problem has a bias, its address is 0");
  if (!weight && p.D > 0) throw std::invalid_argument("plan: linear: the address of weight is 0");
  add({"linear", p.N == 1 ? "gemv" : "gemm", dims({p.N, p.D}) + " * " + dims({p.M}), 2e-9 * p.N * p.D * p.M,
       p.M * p.D * size_of(p.weight_dtype)},
      {{"x", x, extent(p.N, p.D, p.x_stride, p.dtype)}, {"y", y, extent(p.N, p.M, p.y_stride, p.dtype)}},
      [p, weight, bias](Pointers at, int threads) {
        fastcnn::linear(p, at[0], weight, bias, at[1], threads);
      });
}

void Plan::pool2d(const Pool2dProblem& p, Place x, Place y) {
  add({p.mode == PoolMode::max ? "max_pool2d" : "avg_pool2d", "pool2d",
       dims({p.N, p.H, p.W, p.C}) + " * " + dims({p.kernel_h, p.kernel_w}),
       1e-9 * p.N * p.P * p.Q * p.C * p.kernel_h * p.kernel_w, 0},
      {{"x", x, extent(p.N * p.H * p.W, p.C, p.x_stride, p.dtype)},
       {"y", y, extent(p.N * p.P * p.Q, p.C, p.y_stride, p.dtype)}},
      [p](Pointers at, int threads) { FASTCNN_SELECT(pool2d)(p, at[0], at[1], threads); });
}

void Plan::adaptive_avg_pool2d(const AdaptiveAvgPool2dProblem& p, Place x, Place y) {
  add({"adaptive_avg_pool2d", "adaptive_avg_pool2d", dims({p.N, p.H, p.W, p.C}) + " -> " + dims({p.P, p.Q}),
       1e-9 * p.N * p.H * p.W * p.C, 0},
      {{"x", x, extent(p.N * p.H * p.W, p.C, p.x_stride, p.dtype)},
       {"y", y, extent(p.N * p.P * p.Q, p.C, p.y_stride, p.dtype)}},
      [p](Pointers at, int threads) { FASTCNN_SELECT(adaptive_avg_pool2d)(p, at[0], at[1], threads); });
}

void Plan::lrn(const LrnProblem& p, Place x, Place y) {
  add({"local_response_norm", "lrn", dims({p.pixels, p.C}), 1e-9 * p.pixels * p.C * (p.size + 5), 0},
      {{"x", x, extent(p.pixels, p.C, p.x_stride, p.dtype)},
       {"y", y, extent(p.pixels, p.C, p.y_stride, p.dtype)}},
      [p](Pointers at, int threads) { FASTCNN_SELECT(lrn)(p, at[0], at[1], threads); });
}

void Plan::lrn_max_pool2d(const LrnProblem& p, const Pool2dProblem& pool, Place x, Place y) {
  if (p.pixels != pool.N * pool.H * pool.W || p.C != pool.C || p.dtype != pool.dtype)
    throw std::invalid_argument("plan: lrn_max_pool2d: the pool's input is not the LRN's output");
  add({"local_response_norm + max_pool2d", "lrn_max_pool2d", dims({pool.N, pool.H, pool.W, pool.C}),
       1e-9 * p.pixels * p.C * (p.size + 5), 0},
      {{"x", x, extent(p.pixels, p.C, p.x_stride, p.dtype)},
       {"y", y, extent(pool.N * pool.P * pool.Q, p.C, pool.y_stride, p.dtype)}},
      [p, pool](Pointers at, int threads) {
        FASTCNN_SELECT(lrn_max_pool2d)(p, pool, at[0], at[1], threads);
      });
}

void Plan::subsample2d(const Subsample2dProblem& p, Place x, const float* coefficient, const float* bias,
                       Place y) {
  add({"subsample2d", "subsample2d", dims({p.N, p.H, p.W, p.C}) + " / " + dims({p.kernel_size}),
       1e-9 * p.N * p.H * p.W * p.C, 0},
      {{"x", x, extent(p.N * p.H * p.W, p.C, p.x_stride, p.dtype)},
       {"y", y, extent(p.N * p.P * p.Q, p.C, p.y_stride, p.dtype)}},
      [p, coefficient, bias](Pointers at, int threads) {
        FASTCNN_SELECT(subsample2d)(p, at[0], coefficient, bias, at[1], threads);
      });
}

void Plan::copy_slice(const CopySliceProblem& p, Place x, Place y) {
  add({"concat", "copy_slice", dims({p.pixels, p.C}), 0, 0},
      {{"x", x, extent(p.pixels, p.C, p.x_stride, p.element_size)},
       {"y", y, extent(p.pixels, p.C, p.y_stride, p.element_size)}},
      [p](Pointers at, int threads) { FASTCNN_SELECT(copy_slice)(p, at[0], at[1], threads); });
}

void Plan::add_relu(const AddReluProblem& p, Place a, Place b, Place y) {
  add({"add_relu", "add_relu", dims({p.pixels, p.C}), 1e-9 * p.pixels * p.C, 0},
      {{"a", a, extent(p.pixels, p.C, p.a_stride, p.dtype)},
       {"b", b, extent(p.pixels, p.C, p.b_stride, p.dtype)},
       {"y", y, extent(p.pixels, p.C, p.y_stride, p.dtype)}},
      [p](Pointers at, int threads) { FASTCNN_SELECT(add_relu)(p, at[0], at[1], at[2], threads); });
}

void Plan::elementwise(const ElementwiseProblem& p, Place a, Place b, Place y) {
  const bool scale = p.function == Elementwise::scale_channels;
  if (scale && (p.pixels_per_image < 1 || p.pixels % p.pixels_per_image))
    throw std::invalid_argument("plan: scale_channels: pixels_per_image is " +
                                std::to_string(p.pixels_per_image) +
                                ", must divide pixels = " + std::to_string(p.pixels));
  const int64_t b_pixels = scale                            ? p.pixels / p.pixels_per_image
                           : p.function == Elementwise::add ? p.pixels
                                                            : 0;
  add({name_of(p.function), "elementwise", dims({p.pixels, p.C}), 1e-9 * p.pixels * p.C, 0},
      {{"a", a, extent(p.pixels, p.C, p.a_stride, p.dtype)},
       {"b", b, extent(b_pixels, p.C, p.b_stride, p.dtype)},
       {"y", y, extent(p.pixels, p.C, p.y_stride, p.dtype)}},
      [p](Pointers at, int threads) { FASTCNN_SELECT(elementwise)(p, at[0], at[1], at[2], threads); });
}

void Plan::rbf(const RbfProblem& p, Place x, const float* centers, Place y) {
  add({"rbf", "rbf", dims({p.N, p.D}) + " - " + dims({p.M}), 3e-9 * p.N * p.D * p.M, p.M * p.D * 4},
      {{"x", x, extent(p.N, p.D, p.x_stride, p.dtype)}, {"y", y, extent(p.N, p.M, p.y_stride, p.dtype)}},
      [p, centers](Pointers at, int threads) { FASTCNN_SELECT(rbf)(p, at[0], centers, at[1], threads); });
}

void Plan::to_channels_last(const LayoutProblem& p, Place x, Place y) {
  const int64_t pixels = p.N * p.H * p.W;
  add({"to_channels_last", "layout", dims({p.N, p.C, p.H, p.W}), 0, 0},
      {{"x", x, pixels * p.C * p.element_size},
       {"y", y, extent(pixels, p.C, p.pixel_stride, p.element_size)}},
      [p](Pointers at, int threads) { fastcnn::to_channels_last(p, at[0], at[1], threads); });
}

void Plan::to_channels_first(const LayoutProblem& p, Place x, Place y) {
  const int64_t pixels = p.N * p.H * p.W;
  add({"to_channels_first", "layout", dims({p.N, p.H, p.W, p.C}), 0, 0},
      {{"x", x, extent(pixels, p.C, p.pixel_stride, p.element_size)},
       {"y", y, pixels * p.C * p.element_size}},
      [p](Pointers at, int threads) { fastcnn::to_channels_first(p, at[0], at[1], threads); });
}

void Plan::finalize(int64_t slices) {
  if (arena_bytes_ >= 0) throw std::invalid_argument("plan: finalized, it cannot change");
  if (slices < 1)
    throw std::invalid_argument("plan: slices is " + std::to_string(slices) + ", must be at least 1");
  slices_ = slices;
  std::vector<Buffer*> order;
  for (Buffer& buffer : buffers_)
    if (buffer.kind == Kind::arena && buffer.first >= 0) order.push_back(&buffer);
  std::stable_sort(order.begin(), order.end(), [](Buffer* a, Buffer* b) { return a->bytes > b->bytes; });

  int64_t total = 0;
  std::vector<Buffer*> placed;  // by offset
  for (Buffer* buffer : order) {
    int64_t offset = 0;
    for (Buffer* other : placed)
      if (other->first <= buffer->last && buffer->first <= other->last &&
          other->offset < offset + buffer->bytes)
        offset = std::max(offset, (other->offset + other->bytes + kAlignment - 1) / kAlignment * kAlignment);
    buffer->offset = offset;
    total = std::max(total, offset + buffer->bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), buffer,
                                   [](Buffer* a, Buffer* b) { return a->offset < b->offset; }),
                  buffer);
  }
  arena_bytes_ = (total + kAlignment - 1) / kAlignment * kAlignment;
}

int64_t Plan::arena_bytes() const {
  if (arena_bytes_ < 0) throw std::invalid_argument("plan: not finalized");
  return arena_bytes_;
}

void Plan::run(const std::vector<void*>& inputs, const std::vector<void*>& outputs, void* arena, int threads,
               bool alone) const {
  if (arena_bytes() > 0 && !arena) throw std::invalid_argument("plan: the address of the arena is 0");
  auto check = [](const std::vector<void*>& given, int wanted, const char* what) {
    if (static_cast<int>(given.size()) != wanted)
      throw std::invalid_argument("plan: " + std::to_string(given.size()) + " " + what + ", it has " +
                                  std::to_string(wanted));
  };
  check(inputs, inputs_, "inputs");
  check(outputs, outputs_, "outputs");
  for (const Buffer& buffer : buffers_)
    if (buffer.bytes > 0 && ((buffer.kind == Kind::input && !inputs[buffer.index]) ||
                             (buffer.kind == Kind::output && !outputs[buffer.index])))
      throw std::invalid_argument("plan: the address of " +
                                  std::string(buffer.kind == Kind::input ? "input " : "output ") +
                                  std::to_string(buffer.index) + " is 0");
  const OwnThreads own(alone);
  if (slices_ == 1) return run_slice(0, inputs, outputs, static_cast<char*>(arena), threads);
  parallel_for(threads, slices_, [&](int64_t slice, int worker) {
    run_slice(slice, inputs, outputs, static_cast<char*>(arena) + worker * arena_bytes_, 1);
  });
}

void Plan::run_slice(int64_t slice, const std::vector<void*>& inputs, const std::vector<void*>& outputs,
                     char* arena, int threads) const {
  for (const Op& op : ops_) {
    void* at[kMaxOperands] = {};
    for (size_t i = 0; i < op.operands.size(); ++i) {
      const Place& place = op.operands[i].place;
      if (place.buffer < 0) continue;
      const Buffer& buffer = buffers_[place.buffer];
      char* base = buffer.kind == Kind::arena
                       ? arena + buffer.offset
                       : static_cast<char*>((buffer.kind == Kind::input ? inputs : outputs)[buffer.index]) +
                             slice * buffer.bytes;
      at[i] = base + place.offset;
    }
    // A thread is worth waking for several microseconds of work.
    const double useful = 1 + op.flop / 5e5 + op.description.bytes / double{64 << 10};
    op.call(at, useful < threads ? static_cast<int>(useful) : threads);
  }
}

std::vector<Plan::Description> Plan::describe() const {
  std::vector<Description> result;
  for (const Op& op : ops_) result.push_back(op.description);
  return result;
}

}  // namespace fastcnn
