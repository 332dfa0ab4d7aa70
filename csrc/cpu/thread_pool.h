// Fork-join over the threads of PyTorch's own operators, or over a pool of this library's.
//
// Between PyTorch's operators libgomp's team does the work, where PyTorch has loaded it: two sets of spinning
// threads would fight for the cores. Within OwnThreads, in a forked child, which libgomp's threads do not
// survive, and where there is no libgomp, a call claims up to threads - 1 idle workers of a pool that grows
// to the largest number asked for; a call that finds none idle runs alone. Either way the caller takes part,
// all draw task numbers from one counter, and a call inside a task runs serially.
#pragma once

#include <cstdint>

namespace fastcnn {

namespace detail {
void run_tasks(int threads, int64_t tasks, void (*call)(void* function, int64_t task, int worker),
               void* function);
}

// For its life, and its thread, parallel_for uses the pool: for a network that PyTorch has no part in. The
// pool does not stall where other programs take the cores, as libgomp's spinning threads do for milliseconds.
class OwnThreads {
 public:
  explicit OwnThreads(bool own);
  ~OwnThreads();
  OwnThreads(const OwnThreads&) = delete;
  OwnThreads& operator=(const OwnThreads&) = delete;

 private:
  bool before_;
};

// Calls f(task, worker) for every task in [0, tasks), 0 <= worker < threads; no two calls that run at the
// same time share a worker number. Returns when all are done; rethrows the first exception that a task threw.
template <class F>
static inline void parallel_for(int threads, int64_t tasks, F&& f) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t task = 0; task < tasks; ++task) f(task, 0);
    return;
  }
  detail::run_tasks(
      threads, tasks,
      [](void* function, int64_t task, int worker) { (*static_cast<decltype(&f)>(function))(task, worker); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// Part i of [0, count) cut into near-equal contiguous ranges.
struct Range {
  int64_t begin, end;
};
static inline Range part_of(int64_t count, int64_t parts, int64_t i) {
  return {count * i / parts, count * (i + 1) / parts};
}

// How many threads are worth waking for this much memory traffic: waking one costs as much as moving about
// 16 KB, so each should move several times that.
static inline int threads_for_bytes(int threads, int64_t bytes) {
  const int64_t useful = 1 + bytes / (64 << 10);
  return useful < threads ? static_cast<int>(useful) : threads;
}

}  // namespace fastcnn
