// A network as one native call: a list of operations over one block of memory, the arena.
//
// Build: declare buffers, add operations in the order in which they run, finalize(). Then a plan never
// changes, and several threads may run it at once, each with its own arena. Weights, biases and other
// constants are addresses that must stay valid as long as the plan.
//
// Arena. A buffer lives from the first operation that touches it to the last. finalize() places the buffers
// one by one, largest first, each at the lowest offset where no buffer that lives at the same time lies.
//
// Slices. A plan made for a few images runs a batch of `slices` times as many, slice by slice: the whole
// network on one slice stays in a core's cache, and threads meet once a batch instead of once a layer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/problem.h"
#include "ops/conv2d/conv2d_cpu.h"
#include "ops/linear/linear_cpu.h"

namespace fastcnn {

// A tensor of a plan: a byte offset in a buffer, so that a channel slice is its pixel stride plus an offset.
struct Place {
  int buffer = -1;
  int64_t offset = 0;
};

class Plan {
 public:
  int buffer(int64_t bytes);  // a value in the arena
  int input(int64_t bytes);   // bound by run(), in the order of declaration
  int output(int64_t bytes);

  // Every tensor must lie inside its buffer; anything else throws std::invalid_argument.
  void conv2d(const Conv2d& conv, Place x, const void* weight, WeightForm form, const float* bias,
              Place residual, Place y);
  void linear(const LinearProblem& problem, Place x, const void* weight, const float* bias, Place y);
  void pool2d(const Pool2dProblem& problem, Place x, Place y);
  void adaptive_avg_pool2d(const AdaptiveAvgPool2dProblem& problem, Place x, Place y);
  void lrn(const LrnProblem& problem, Place x, Place y);
  void lrn_max_pool2d(const LrnProblem& problem, const Pool2dProblem& pool, Place x, Place y);
  void subsample2d(const Subsample2dProblem& problem, Place x, const float* coefficient, const float* bias,
                   Place y);
  void copy_slice(const CopySliceProblem& problem, Place x, Place y);
  void add_relu(const AddReluProblem& problem, Place a, Place b, Place y);
  void elementwise(const ElementwiseProblem& problem, Place a, Place b, Place y);
  void rbf(const RbfProblem& problem, Place x, const float* centers, Place y);
  void to_channels_last(const LayoutProblem& problem, Place x, Place y);
  void to_channels_first(const LayoutProblem& problem, Place x, Place y);

  void finalize(int64_t slices = 1);
  // Of one arena, aligned to 64. With slices run() needs one for each thread, end to end.
  int64_t arena_bytes() const;
  // Inputs and outputs hold their slices end to end. alone:
  // PyTorch computes nothing before or after it, see OwnThreads.
  void run(const std::vector<void*>& inputs, const std::vector<void*>& outputs, void* arena, int threads,
           bool alone) const;

  struct Description {
    std::string op, kernel, shape;
    double gflop;
    int64_t bytes;  // read and written, weights included
  };
  std::vector<Description> describe() const;

  // A tensor as an operation uses it, with the bytes from its first to its last element; buffer < 0: absent.
  struct Operand {
    const char* name;
    Place place;
    int64_t extent;
  };
  using Pointers = void* const*;  // one an operand, in order
  // Any operation; description.bytes holds those of its constants.
  void add(Description description, std::vector<Operand> operands, std::function<void(Pointers, int)> call);

 private:
  enum class Kind { arena, input, output };
  struct Buffer {
    Kind kind;
    int64_t bytes;
    int index;                  // of an input or output
    int64_t offset = 0;         // in the arena
    int first = -1, last = -1;  // operations that touch it
  };
  struct Op {
    Description description;
    double flop;
    std::vector<Operand> operands;
    std::function<void(Pointers, int threads)> call;
  };
  int declare(Kind kind, int64_t bytes);
  void run_slice(int64_t slice, const std::vector<void*>& inputs, const std::vector<void*>& outputs,
                 char* arena, int threads) const;

  std::vector<Buffer> buffers_;
  std::vector<Op> ops_;
  int inputs_ = 0, outputs_ = 0;
  int64_t arena_bytes_ = -1;  // < 0 until finalize()
  int64_t slices_ = 1;
};

}  // namespace fastcnn
