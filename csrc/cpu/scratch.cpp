#include "cpu/scratch.h"

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastcnn {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;
  ~Buffer() { std::free(data); }

  void* get(size_t wanted) {
    if (wanted <= bytes) return data;
    const size_t alignment = wanted >= kHugePage ? kHugePage : 64;
    wanted = (wanted + alignment - 1) / alignment * alignment;
    std::free(data);
    bytes = 0;
    data = std::aligned_alloc(alignment, wanted);
    if (!data) throw std::bad_alloc();
    bytes = wanted;
    advise_huge_pages(data, bytes);
    return data;
  }
};

thread_local Buffer buffers[3];

}  // namespace

void* scratch(Scratch slot, size_t bytes) { return buffers[static_cast<int>(slot)].get(bytes ? bytes : 1); }

void advise_huge_pages(void* begin, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(begin) + bytes) / kHugePage * kHugePage;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  static_cast<void>(begin);
  static_cast<void>(bytes);
#endif
}

}  // namespace fastcnn
