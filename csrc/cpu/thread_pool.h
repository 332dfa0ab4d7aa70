// Fork-join over a pool of this library's own threads.
//
// A call claims up to threads - 1 idle workers, the caller takes part, and all of them draw task numbers from
// one counter. The pool grows to the largest number of threads asked for. Calls from several threads share
// the workers; a call that finds none idle runs alone. A call inside a task runs serially. A forked child
// starts with an empty pool.
#pragma once

#include <cstdint>

namespace fastcnn {

namespace detail {
void run_tasks(int threads, int64_t tasks, void (*call)(void* function, int64_t task, int worker),
               void* function);
}

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
