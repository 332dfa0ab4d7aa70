// Working memory of kernels: per thread, kept between calls, growing to the largest request.
#pragma once

#include <cstddef>

namespace fastcnn {

// `task` is for what one task needs while it runs; `call` for what the caller sets up before parallel_for and
// all workers use: two slots, because the caller also runs tasks. `weights` are those that a call packs.
enum class Scratch { task, call, weights };

// At least `bytes` bytes, aligned to 64, uninitialised; valid until this thread asks for the same slot again.
// Throws std::bad_alloc.
void* scratch(Scratch slot, size_t bytes);

// Asks for huge pages under [begin, begin + bytes), if it is large enough to hold some. A fresh output of
// 100 MB costs 25,000 page faults of 4 KB, about as much time as writing it.
void advise_huge_pages(void* begin, size_t bytes);

}  // namespace fastcnn
