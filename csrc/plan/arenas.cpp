#include "plan/arenas.h"

#include <new>
#include <utility>

namespace fastcnn {

Arenas::Taken::Taken(Arenas& from, size_t bytes) : from_(from) {
  {
    const std::lock_guard<std::mutex> guard(from.lock_);
    if (!from.free_.empty()) {
      block_ = std::move(from.free_.back());
      from.free_.pop_back();
    }
  }
  if (block_.bytes >= bytes) return;
  block_ = {};  // before the larger one is made
  const size_t rounded = (bytes + 63) / 64 * 64;
  block_.memory.reset(std::aligned_alloc(64, rounded));
  if (!block_.memory) throw std::bad_alloc();
  block_.bytes = rounded;
}

Arenas::Taken::~Taken() {
  if (!block_.memory) return;
  const std::lock_guard<std::mutex> guard(from_.lock_);
  try {
    from_.free_.push_back(std::move(block_));
  } catch (const std::bad_alloc&) {  // then it is freed
  }
}

}  // namespace fastcnn
