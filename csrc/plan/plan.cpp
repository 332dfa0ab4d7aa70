#include "plan/plan.h"

#include <algorithm>
#include <stdexcept>

#include "cpu/thread_pool.h"

namespace fastcnn {
namespace {

constexpr size_t kFewOperands = 6;  // whose addresses need no memory of their own
constexpr int64_t kAlignment = 64;

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

void Plan::add(Operation operation, const std::vector<Given>& operands) {
  if (arena_bytes_ >= 0) throw std::invalid_argument("plan: finalized, it cannot change");
  auto fail = [&](const std::string& what) {
    throw std::invalid_argument("plan: " + operation.op + " " + operation.shape + ": " + what);
  };
  if (operands.size() != operation.operands.size())
    fail("it has " + std::to_string(operation.operands.size()) + " operands, " +
         std::to_string(operands.size()) + " were given");
  Description description{operation.op, operation.kernel, operation.shape, operation.gflop,
                          operation.constant_bytes};
  for (size_t i = 0; i < operands.size(); ++i) {
    const Operand& operand = operation.operands[i];
    const Place& place = operands[i].place;
    const std::string name = operand.name;
    if (operand.is_constant) {
      if (operand.is_needed && !operands[i].address) fail("the address of " + name + " is 0");
      continue;
    }
    if (place.buffer < 0 && operand.extent == 0) continue;  // there is none
    if (place.buffer < 0 || place.buffer >= static_cast<int>(buffers_.size()))
      fail(name + " is in buffer " + std::to_string(place.buffer) + ", there are " +
           std::to_string(buffers_.size()));
    Buffer& buffer = buffers_[place.buffer];
    if (place.offset < 0 || place.offset + operand.extent > buffer.bytes)
      fail(name + " takes bytes " + std::to_string(place.offset) + " to " +
           std::to_string(place.offset + operand.extent) + " of buffer " + std::to_string(place.buffer) +
           ", which has " + std::to_string(buffer.bytes));
    description.bytes += operand.extent;
    if (buffer.first < 0) buffer.first = static_cast<int>(ops_.size());
    buffer.last = static_cast<int>(ops_.size());
  }
  ops_.push_back({description, operation.gflop * 1e9, operands, std::move(operation.run)});
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
    void* few[kFewOperands];
    std::vector<void*> many(op.operands.size() > kFewOperands ? op.operands.size() : 0);
    void** const addresses = many.empty() ? few : many.data();
    for (size_t i = 0; i < op.operands.size(); ++i) {
      const Place& place = op.operands[i].place;
      if (place.buffer < 0) {
        addresses[i] = op.operands[i].address;
        continue;
      }
      const Buffer& buffer = buffers_[place.buffer];
      char* base = buffer.kind == Kind::arena
                       ? arena + buffer.offset
                       : static_cast<char*>((buffer.kind == Kind::input ? inputs : outputs)[buffer.index]) +
                             slice * buffer.bytes;
      addresses[i] = base + place.offset;
    }
    // A thread is worth waking for several microseconds of work.
    const double useful = 1 + op.flop / 5e5 + op.description.bytes / double{64 << 10};
    op.run(addresses, useful < threads ? static_cast<int>(useful) : threads);
  }
}

std::vector<Plan::Description> Plan::describe() const {
  std::vector<Description> result;
  for (const Op& op : ops_) result.push_back(op.description);
  return result;
}

}  // namespace fastcnn
