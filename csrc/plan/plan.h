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

#include "plan/operation.h"

namespace fastcnn {

// A tensor of a plan: a byte offset in a buffer, so that a channel slice is its pixel stride plus an offset.
// buffer < 0: there is none.
struct Place {
  int buffer = -1;
  int64_t offset = 0;
};

// What an operation is given for an operand: a tensor's place, or a constant's address.
struct Given {
  Place place;
  void* address = nullptr;
};

class Plan {
 public:
  int buffer(int64_t bytes);  // a value in the arena
  int input(int64_t bytes);   // bound by run(), in the order of declaration
  int output(int64_t bytes);

  // Every tensor must lie inside its buffer, and of what is needed nothing may be left out; anything else
  // throws std::invalid_argument.
  void add(Operation operation, const std::vector<Given>& operands);

  void finalize(int64_t slices = 1);
  // Of one arena, aligned to 64. With slices run() needs one for each thread, end to end.
  int64_t arena_bytes() const;
  int64_t slices() const { return slices_; }
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
    std::vector<Given> operands;
    std::function<void(Addresses, int threads)> run;
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
