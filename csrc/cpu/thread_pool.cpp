#include "cpu/thread_pool.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace fastcnn::detail {
namespace {

// A waiting thread spins for some microseconds, so that the next of a network's layers starts at once; then
// it yields, so that a shared machine gets its core back; then it sleeps.
constexpr int kSpins = 2000;
constexpr int kYields = 200;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

struct Job {
  void (*call)(void*, int64_t, int);
  void* function;
  int64_t tasks;
  alignas(64) std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr exception;  // written by the one that sets `failed`

  void run(int worker) {
    try {
      for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
        call(function, task, worker);
    } catch (...) {
      if (!failed.exchange(true)) exception = std::current_exception();
      next.store(tasks, std::memory_order_relaxed);
    }
  }
};

thread_local bool inside_task = false;
thread_local bool own_threads = false;

// A worker's `job` goes null -> job (claimed by a caller) -> kRunning (taken by the worker) -> null (done). A
// caller that has run out of tasks takes back a job that its worker has not started, by job -> null: so it
// never waits for a thread that the operating system has not scheduled yet.
Job* const kRunning = reinterpret_cast<Job*>(alignof(Job));

struct alignas(64) Worker {
  std::atomic<Job*> job{nullptr};
  std::atomic<bool> sleeping{false};
  int number = 0;  // written by the claiming caller before `job`
  std::mutex mutex;
  std::condition_variable wake;

  void start(Job* next) {
    job.store(next, std::memory_order_seq_cst);
    if (sleeping.load(std::memory_order_seq_cst)) {
      std::lock_guard<std::mutex> lock(mutex);
      wake.notify_one();
    }
  }

  void finish(Job* mine) {
    Job* expected = mine;
    if (job.compare_exchange_strong(expected, nullptr, std::memory_order_acq_rel)) return;
    for (int i = 0; job.load(std::memory_order_acquire) != nullptr; ++i) {
      if (i < kSpins)
        pause();
      else if (i < kSpins + 20 * kYields)
        sched_yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  void wait_for_job() {
    for (int i = 0; i < kSpins + kYields; ++i) {
      if (job.load(std::memory_order_acquire)) return;
      i < kSpins ? pause() : static_cast<void>(sched_yield());
    }
    std::unique_lock<std::mutex> lock(mutex);
    sleeping.store(true, std::memory_order_seq_cst);
    wake.wait(lock, [this] { return job.load(std::memory_order_seq_cst) != nullptr; });
    sleeping.store(false, std::memory_order_relaxed);
  }

  [[noreturn]] void loop() {
    inside_task = true;
    for (;;) {
      wait_for_job();
      Job* mine = job.load(std::memory_order_acquire);
      if (!mine || !job.compare_exchange_strong(mine, kRunning, std::memory_order_acq_rel)) continue;
      mine->run(number);
      job.store(nullptr, std::memory_order_release);
    }
  }
};

class Pool {
 public:
  // Moves up to `wanted` idle workers into `claimed`, after growing the pool to that many.
  void claim(int wanted, std::vector<Worker*>& claimed) {
    std::lock_guard<std::mutex> lock(mutex_);
    while (size_ < wanted && grow()) {
    }
    while (static_cast<int>(claimed.size()) < wanted && !idle_.empty()) {
      claimed.push_back(idle_.back());
      idle_.pop_back();
    }
  }

  void release(const std::vector<Worker*>& claimed) {
    std::lock_guard<std::mutex> lock(mutex_);
    idle_.insert(idle_.end(), claimed.rbegin(), claimed.rend());
  }

 private:
  bool grow() {
    // Workers take no signals: Python expects them in its own threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool grown = true;
    try {
      idle_.reserve(size_ + 1);
      auto worker = std::make_unique<Worker>();
      std::thread([w = worker.get()] { w->loop(); }).detach();
      idle_.push_back(worker.release());
      ++size_;
    } catch (const std::exception&) {
      grown = false;  // no thread to be had: run with those there are
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return grown;
  }

  std::mutex mutex_;
  std::vector<Worker*> idle_;
  int size_ = 0;
};

// PyTorch's operators run on libgomp's threads, which spin for milliseconds after their work. Threads of our
// own would meet them on every core: ResNet-50 with its layers called one by one, batch normalisation by
// PyTorch, took as long on two threads as on one. So we run on libgomp's threads too, where PyTorch has
// loaded it.
struct Gomp {
  void (*parallel)(void (*)(void*), void*, unsigned threads, unsigned flags);
  int (*thread_num)();
  int (*max_threads)();

  Gomp()
      : parallel(find<decltype(parallel)>("GOMP_parallel")),
        thread_num(find<decltype(thread_num)>("omp_get_thread_num")),
        max_threads(find<decltype(max_threads)>("omp_get_max_threads")) {}

  bool usable() const { return parallel && thread_num && max_threads; }

  // A team of another size than the last is made of new threads: it always has as many as PyTorch's.
  void run(Job& job, int workers) const {
    struct Team {
      Job& job;
      int workers;
      const Gomp& gomp;
    } team{job, workers, *this};
    const int size = max_threads() > workers ? max_threads() : workers;
    parallel(
        [](void* data) {
          const Team& mine = *static_cast<Team*>(data);
          const int number = mine.gomp.thread_num();
          if (number >= mine.workers) return;
          inside_task = true;
          mine.job.run(number);
          inside_task = false;
        },
        &team, size, 0);
  }

 private:
  template <class F>
  static F find(const char* name) {
    return reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
  }
};

// Never destroyed: workers sleep in it until the process ends. A forked child has none of the parent's
// threads, and whatever they held locked stays locked: it takes a new pool.
std::atomic<Pool*> current_pool{nullptr};
std::atomic<bool> forked{false};  // libgomp does not survive a fork

Pool& pool() {
  static const bool once = [] {
    current_pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] {
      current_pool = new Pool;
      forked = true;
      inside_task = false;
    });
    return true;
  }();
  static_cast<void>(once);
  return *current_pool.load(std::memory_order_acquire);
}

}  // namespace

void run_tasks(int threads, int64_t tasks, void (*call)(void*, int64_t, int), void* function) {
  Job job;
  job.call = call;
  job.function = function;
  job.tasks = tasks;
  const int wanted = static_cast<int>(threads < tasks ? threads : tasks);
  static const Gomp gomp;
  Pool& own = pool();
  if (inside_task) {
    job.run(0);
  } else if (!own_threads && gomp.usable() && !forked.load(std::memory_order_relaxed)) {
    gomp.run(job, wanted);
  } else {
    thread_local std::vector<Worker*> claimed;
    claimed.clear();
    own.claim(wanted - 1, claimed);
    for (size_t i = 0; i < claimed.size(); ++i) {
      claimed[i]->number = static_cast<int>(i) + 1;
      claimed[i]->start(&job);
    }
    inside_task = true;
    job.run(0);
    inside_task = false;
    for (Worker* worker : claimed) worker->finish(&job);
    own.release(claimed);
  }
  if (job.exception) std::rethrow_exception(job.exception);
}

}  // namespace fastcnn::detail

namespace fastcnn {

OwnThreads::OwnThreads(bool own) : before_(detail::own_threads) { detail::own_threads = own; }
OwnThreads::~OwnThreads() { detail::own_threads = before_; }

}  // namespace fastcnn
