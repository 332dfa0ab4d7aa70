// Fibers, their turns, deadlocks and launches.
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "emulator/block.h"

namespace emulator {

Config config;
Block block;

namespace {

std::string finding;
uint64_t launches = 0;

#if defined(__x86_64__)
// Saves the callee-saved registers on the old stack and takes up the new one: about 10 times faster than
// swapcontext, which makes a system call for the signal mask.
asm(R"(
.text
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
extern "C" void emulator_switch(void** from, void** to);

void to_scheduler() { emulator_switch(&block.running->stack_pointer, &block.scheduler); }
void to_fiber(Fiber& fiber) { emulator_switch(&block.scheduler, &fiber.stack_pointer); }
#else
void to_scheduler() { swapcontext(&block.running->context, &block.scheduler); }
void to_fiber(Fiber& fiber) { swapcontext(&block.scheduler, &fiber.context); }
#endif

void run_thread() {
  block.body(block.context);
  Fiber& fiber = *block.running;
  std::string what;
  if (async_work_in_flight(fiber, &what)) fail("the thread exits with %s in flight", what.c_str());
  fiber.state = State::done;
  block.live--;
  to_scheduler();
  abort();
}

void prepare(Fiber& fiber) {
  char* stack = block.stacks + fiber.id * kStackBytes;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;  // keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(run_thread);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber.stack_pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, run_thread, 0);
#endif
}

std::string describe_deadlock() {
  std::map<std::string, std::vector<int>> groups;
  for (Fiber& fiber : block.fibers) {
    char text[160];
    if (fiber.state == State::done) {
      snprintf(text, sizeof text, "exited");
    } else if (fiber.wait == Wait::barrier) {
      snprintf(text, sizeof text, "at barrier %u (%zu of %d threads)", fiber.wait_on,
               block.barriers[fiber.wait_on].arrived.size(), block.barriers[fiber.wait_on].threads);
    } else if (fiber.wait == Wait::mbarrier) {
      const Mbarrier& m = block.mbarriers[fiber.wait_on];
      snprintf(text, sizeof text,
               "at mbarrier shared+0x%x, parity %u (phase %u, %d arrivals and %lld bytes missing)",
               fiber.wait_on - kSharedWindow, fiber.wait_parity, m.phase, m.pending,
               static_cast<long long>(m.transaction_bytes));
    } else {
      snprintf(text, sizeof text, "at collective %s", name(static_cast<Collective>(fiber.wait_on)));
    }
    groups[text].push_back(fiber.id);
  }
  std::string report = "DEADLOCK: every thread waits:";
  for (auto& [text, threads] : groups)
    report += " [" + std::to_string(threads.size()) + " from thread " + std::to_string(threads[0]) + " " +
              text + "]";
  return report;
}

void allocate_once() {
  if (block.stacks) return;
  const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  block.stacks =
      static_cast<char*>(mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE, anonymous, -1, 0));
  // A wide inaccessible region around shared memory: a stray access is reported, never another object's.
  const size_t guard = size_t{1} << 29;
  char* region = static_cast<char*>(mmap(nullptr, 2 * guard, PROT_NONE, anonymous, -1, 0));
  block.shared = region + guard;
  if (mprotect(block.shared, kSharedCapacity, PROT_READ | PROT_WRITE)) abort();
}

void reset(dim3 index) {
  block.index = index;
  block.live = block.threads;
  block.running = nullptr;
  block.error.clear();
  block.random.seed(config.seed * 7919 + index.x * 31 + index.y * 17 + index.z);
  // Fresh shared memory holds NaN in every floating-point
  // type, so that a read of it shows in the numbers too.
  for (size_t i = 0; i + 1 < block.shared_bytes; i += 2)
    block.shared[i] = '\xff', block.shared[i + 1] = '\x7f';
  block.actors = block.threads + kCopyEngines;
  if (config.check) {
    block.cells.assign(block.shared_bytes / 2 + 8, Cell{});
    block.clocks.assign(static_cast<size_t>(block.actors) * block.actors, 0);
    for (int t = 0; t < block.actors; t++) clock_of(t)[t] = 1;
    block.generic_writes.assign(block.actors, {});
  }
  for (NamedBarrier& b : block.barriers) b = NamedBarrier();
  block.warps.assign((block.threads + kWarp - 1) / kWarp, {});
  block.warpgroup_meetings.assign((block.threads + kWarpgroup - 1) / kWarpgroup, {});
  block.warpgroups.clear();
  block.warpgroups.resize(block.warpgroup_meetings.size());
  block.mbarriers.clear();
  block.tma_loads.clear();
  block.open_stores.clear();
  block.store_groups.clear();
  block.fibers.clear();
  block.fibers.resize(block.threads);
  for (int i = 0; i < block.threads; i++) {
    Fiber& fiber = block.fibers[i];
    fiber.id = i;
    fiber.index = dim3(i % block.size.x, i / block.size.x % block.size.y, i / (block.size.x * block.size.y));
    prepare(fiber);
  }
}

void run_block(dim3 index) {
  reset(index);
  std::vector<int> warps(block.warps.size()), lanes(kWarp);
  for (size_t i = 0; i < warps.size(); i++) warps[i] = config.order == 1 ? warps.size() - 1 - i : i;
  for (int i = 0; i < kWarp; i++) lanes[i] = config.order == 1 ? kWarp - 1 - i : i;
  while (block.live && block.error.empty()) {
    if (config.order == 2) {
      std::shuffle(warps.begin(), warps.end(), block.random);
      std::shuffle(lanes.begin(), lanes.end(), block.random);
    }
    bool progress = false;
    for (int warp : warps) {
      // A warp runs as long as it can, so that warps drift apart as far as synchronisation lets them.
      for (bool warp_progress = true; warp_progress && block.error.empty();) {
        warp_progress = false;
        for (int lane : lanes) {
          const int thread = warp * kWarp + lane;
          if (thread >= block.threads) continue;
          Fiber& fiber = block.fibers[thread];
          if (fiber.state == State::blocked && fiber.wait == Wait::mbarrier &&
              mbarrier_phase_complete(fiber.wait_on, fiber.wait_parity))
            fiber.state = State::ready;
          if (fiber.state != State::ready) continue;
          block.running = &fiber;
          to_fiber(fiber);
          block.running = nullptr;
          warp_progress = progress = true;
          if (!block.error.empty()) break;
        }
      }
    }
    if (progress || !block.error.empty()) continue;
    if (block.tma_loads.empty()) {
      block.error = describe_deadlock();
    } else {  // nobody can run: one copy lands
      const size_t last = block.tma_loads.size() - 1;
      land_tma_load(config.order == 2 ? block.random() % (last + 1) : config.order == 1 ? last : 0);
    }
  }
  if (block.error.empty() && !block.tma_loads.empty())
    block.error = "the block exits with TMA loads in flight";
}

}  // namespace

void fail(const char* format, ...) {
  char text[1024], where[96];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  snprintf(where, sizeof where, "block (%u,%u,%u) thread %d: ", block.index.x, block.index.y, block.index.z,
           block.running ? block.running->id : -1);
  block.error = std::string(where) + text;
  to_scheduler();  // never resumed: the block is abandoned
  abort();
}

void block_on(Wait what, uint32_t on, uint32_t parity) {
  Fiber& fiber = *block.running;
  fiber.state = State::blocked;
  fiber.wait = what;
  fiber.wait_on = on;
  fiber.wait_parity = parity;
  to_scheduler();
}

dim3 thread_index() { return block.running->index; }
dim3 block_index() { return block.index; }
dim3 block_size() { return block.size; }
dim3 grid_size() { return block.grid; }
char* shared_memory() { return block.shared; }

const char* launch(dim3 grid, dim3 size, size_t shared_bytes, void (*body)(const void*), const void* context,
                   size_t context_size) {
  finding.clear();
  launches++;
  allocate_once();
  block.threads = size.x * size.y * size.z;
  if (block.threads < 1 || block.threads > kMaxThreads) return "invalid configuration: threads per block";
  if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535) return "invalid configuration: grid";
  if (shared_bytes > 227 * 1024) return "invalid configuration: shared memory";
  block.body = body;
  block.size = size;
  block.grid = grid;
  block.shared_bytes = shared_bytes;
  block.context = static_cast<const char*>(context);
  block.context_size = context_size;
  forget_global_accesses();
  for (unsigned z = 0; z < grid.z && finding.empty(); z++)
    for (unsigned y = 0; y < grid.y && finding.empty(); y++)
      for (unsigned x = 0; x < grid.x && finding.empty(); x++) {
        run_block(dim3(x, y, z));
        finding = block.error;
      }
  return finding.c_str();
}

}  // namespace emulator

extern "C" {
void emulator_configure(int order, unsigned seed, int lazy, int check) {
  emulator::config = {order, seed, lazy != 0, check != 0};
}
uint64_t emulator_launches() { return emulator::launches; }
}
