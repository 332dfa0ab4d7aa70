// The state of the block being emulated, shared by the runtime's files.
#pragma once

#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "emulator/emulator.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

constexpr int kCopyEngines = 32;
constexpr int kWarp = 32, kWarpgroup = 128, kMaxThreads = 1024;
constexpr uint32_t kSharedWindow = 0x400;  // 32-bit address at which the block's shared memory begins
constexpr size_t kSharedCapacity = 256 * 1024, kStackBytes = 64 * 1024;

struct Config {
  int order = 0;
  unsigned seed = 1;
  bool lazy = true, check = true;
};
extern Config config;

enum class Collective {
  none,
  syncwarp,
  shuffle,
  any,
  ldmatrix,
  mma,
  wgmma,
  wgmma_fence,
  wgmma_commit,
  wgmma_wait
};
enum class State { ready, blocked, done };
enum class Wait { none, barrier, mbarrier, collective };

struct AsyncCopy {
  uint32_t destination;
  const char* source;
  int size, valid;
};

// One CUDA thread.
struct Fiber {
  int id = 0;
  dim3 index;
  State state = State::ready;
  Wait wait = Wait::none;
  uint32_t wait_on = 0, wait_parity = 0;
  std::vector<AsyncCopy> open_copies;
  std::deque<std::vector<AsyncCopy>> copy_groups;
  bool wgmma_fenced = false;
  // Operands of the collective it is in.
  uint32_t in[4] = {}, out[4] = {};
  uint64_t descriptor_a = 0, descriptor_b = 0;
  float* d = nullptr;
  const uint32_t *a = nullptr, *b = nullptr;
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

// Shadow of two bytes of shared memory.
struct Cell {
  static constexpr int kReaders = 8;
  enum : uint8_t { initialised = 1, copy_in_flight = 2, generic_write = 4 };
  uint32_t write_clock, read_clock[kReaders];
  uint16_t writer, reader[kReaders];  // thread + 1; 0: none
  uint8_t flags;
  uint8_t async_readers;  // wgmma and TMA stores that may still read it
};

struct Mbarrier {
  int expected = 0, pending = 0, engine = 0;
  int64_t transaction_bytes = 0;
  uint32_t phase = 0;
  std::vector<uint32_t> arrived_clock, phase_clock;
};

struct TmaLoad {
  TensorMap map;
  uint32_t destination, barrier;
  int coordinates[5];
};
struct TmaStore {
  TensorMap map;
  uint32_t source;
  int coordinates[5];
  int thread;
};

struct Accumulators {
  std::vector<float> tile;       // 64 x n
  float* registers[kWarpgroup];  // where each thread keeps its part
  int in_flight[4] = {};         // by warp: a warp's wait delivers that warp's rows
};
struct Wgmma {
  uint64_t a, b;
  int n;
  MmaType type;
  bool accumulate, executed = false;
  Accumulators* accumulators;
  int waited_by = 0;  // bit per warp
};
struct Warpgroup {
  std::map<float*, Accumulators> accumulators;
  std::vector<Wgmma> open;
  std::deque<std::vector<Wgmma>> groups;
};

struct Rendezvous {
  Collective operation = Collective::none;
  int arrived = 0;
};
struct NamedBarrier {
  int threads = 0;
  std::vector<int> arrived;
};

struct Block {
  dim3 index, size, grid;
  int threads = 0, live = 0;
  std::vector<Fiber> fibers;
  Fiber* running = nullptr;
  void (*body)(const void*) = nullptr;
  std::string error;
  std::mt19937 random;

  char* stacks = nullptr;
  char* shared = nullptr;
  size_t shared_bytes = 0;
  const char* context = nullptr;
  size_t context_size = 0;

  // Vector clocks: one row a thread, then one a copy engine. Each mbarrier has an engine to itself, so that
  // data are ordered by the barrier they were announced to and by no other.
  int actors = 0;
  std::vector<uint32_t> clocks;
  std::vector<Cell> cells;
  std::vector<std::vector<uint32_t>> generic_writes;  // by thread: cells it wrote since its last proxy fence

  NamedBarrier barriers[16];
  std::vector<Rendezvous> warps, warpgroup_meetings;
  std::map<uint32_t, Mbarrier> mbarriers;
  std::vector<TmaLoad> tma_loads;
  std::map<int, std::vector<TmaStore>> open_stores;  // by thread
  std::map<int, std::deque<std::vector<TmaStore>>> store_groups;
  std::vector<Warpgroup> warpgroups;
#if defined(__x86_64__)
  void* scheduler = nullptr;
#else
  ucontext_t scheduler;
#endif
};
extern Block block;

// scheduler.cc
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
void block_on(Wait what, uint32_t on, uint32_t parity = 0);

// warp.cc
// Each lane calls it; the last to arrive gets true, does the work for all, then calls wake.
bool meet(Rendezvous& meeting, int size, Collective operation);
void wake(int first, int count);
const char* name(Collective operation);
float decode(const uint8_t* bytes, MmaType type);
// How a tensor core rounds: one instruction's products are summed wide, the result is cut off, not rounded.
float truncate(double sum);

// checker.cc
uint32_t* clock_of(int thread);
void join(uint32_t* into, const uint32_t* from);
void synchronise(const std::vector<int>& threads);
void synchronise_warp(int warp);
std::string actor(int thread);
char* at(uint32_t shared_address);
void check_shared_bounds(uint32_t address, size_t bytes, const char* operation);
void check_read(uint32_t address, size_t bytes, int thread, const char* operation, bool async_proxy = false);
void check_write(uint32_t address, size_t bytes, int thread, const char* operation);
void begin_async_write(uint32_t address, size_t bytes, int thread, const char* operation);
void end_async_write(uint32_t address, size_t bytes, int thread, uint8_t flags);
void begin_async_read(uint32_t address, size_t bytes, int thread, const char* operation);
void end_async_read(uint32_t address, size_t bytes);
void check_global(const void* pointer, size_t bytes, bool write, int thread);
void forget_global_accesses();

// async.cc
bool mbarrier_phase_complete(uint32_t barrier, uint32_t parity);
void land_tma_load(size_t index);
bool async_work_in_flight(const Fiber& fiber, std::string* what);
uint32_t swizzled(uint32_t address, int swizzle);

}  // namespace emulator
