// Working memory for the runs of plans: each run takes an arena and gives it back, so that no two share one.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

namespace fastcnn {

class Arenas {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  struct Block {
    std::unique_ptr<void, Free> memory;
    size_t bytes = 0;
  };

 public:
  // An arena for as long as it lives.
  class Taken {
   public:
    // At least `bytes` bytes, aligned to 64, uninitialised. Throws std::bad_alloc.
    Taken(Arenas& from, size_t bytes);
    ~Taken();
    Taken(const Taken&) = delete;
    void* data() const { return block_.memory.get(); }

   private:
    Arenas& from_;
    Block block_;
  };

 private:
  std::mutex lock_;
  std::vector<Block> free_;
};

}  // namespace fastcnn
