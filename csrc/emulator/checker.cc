// The detector. Kernel sources are compiled with -fsanitize=thread but linked to the hooks at the end of this
// file, not to libtsan: every plain load and store arrives here, and is judged by a checker that knows CUDA's
// threads, barriers, mbarriers, asynchronous copies, proxies and bounds.
//
// Happens-before is kept as vector clocks: clock_of(t)[u] is the latest step of u that t is ordered after. A
// barrier joins its participants' clocks; an mbarrier passes the arrivers' clocks to those who wait.
#include <link.h>

#include <algorithm>
#include <cstring>

#include "emulator/block.h"

namespace emulator {

namespace {

struct GlobalBuffer {
  const char* begin;
  size_t bytes;
  bool writable;
  std::vector<uint32_t> writer;  // by byte, within the launch
};
std::vector<GlobalBuffer> buffers;
bool allow_everything = false;

bool ordered(const uint32_t* clock, int other, uint32_t step) { return clock[other] >= step; }

void check_overwrite(const Cell& cell, uint32_t offset, int thread, const char* operation) {
  const uint32_t* clock = clock_of(thread);
  if (cell.flags & Cell::copy_in_flight)
    fail("%s writes shared+0x%x while an asynchronous copy into it is in flight", operation, offset);
  if (cell.async_readers)
    fail("%s overwrites shared+0x%x while wgmma or a TMA store may still read it", operation, offset);
  if (cell.writer && cell.writer - 1 != thread && !ordered(clock, cell.writer - 1, cell.write_clock))
    fail("RACE: %s by %s overwrites shared+0x%x, written by %s with no barrier between", operation,
         actor(thread).c_str(), offset, actor(cell.writer - 1).c_str());
  for (int i = 0; i < Cell::kReaders; i++)
    if (cell.reader[i] && cell.reader[i] - 1 != thread &&
        !ordered(clock, cell.reader[i] - 1, cell.read_clock[i]))
      fail("RACE: %s by %s overwrites shared+0x%x, read by %s with no barrier between", operation,
           actor(thread).c_str(), offset, actor(cell.reader[i] - 1).c_str());
}

void set_writer(Cell& cell, int thread, uint32_t step, uint8_t flags) {
  cell.writer = thread + 1;
  cell.write_clock = step;
  std::memset(cell.reader, 0, sizeof cell.reader);
  cell.flags = flags;
}

// Cells touched by [address, address + bytes).
uint32_t first_cell(uint32_t address) { return (address - kSharedWindow) >> 1; }
uint32_t end_cell(uint32_t address, size_t bytes) { return (address - kSharedWindow + bytes + 1) >> 1; }

// The loaded image that this file is part of: a kernel may read its constants there.
bool in_image(const char* p) {
  static const char *begin = nullptr, *end = nullptr;
  if (!begin) {
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void*) {
          const auto self = reinterpret_cast<uintptr_t>(&buffers);
          uintptr_t low = UINTPTR_MAX, high = 0;
          for (int i = 0; i < info->dlpi_phnum; i++) {
            if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
            const uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            low = std::min(low, start);
            high = std::max<uintptr_t>(high, start + info->dlpi_phdr[i].p_memsz);
          }
          if (self < low || self >= high) return 0;
          begin = reinterpret_cast<const char*>(low);
          end = reinterpret_cast<const char*>(high);
          return 1;
        },
        nullptr);
  }
  return p >= begin && p < end;
}

void access(const void* pointer, size_t bytes, bool write) {
  if (!block.running) return;  // host code in the kernel's file
  const char* p = static_cast<const char*>(pointer);
  const int thread = block.running->id;
  if (p >= block.stacks && p < block.stacks + kStackBytes * kMaxThreads)
    return;  // registers and local memory
  if (p >= block.shared && p < block.shared + kSharedCapacity) {
    const uint32_t address = shared_address(p);
    check_shared_bounds(address, bytes, write ? "store" : "load");
    if (bytes <= 16 && address % bytes)
      fail("misaligned %zu-byte access to shared+0x%x", bytes, address - kSharedWindow);
    if (write)
      check_write(address, bytes, thread, "store");
    else
      check_read(address, bytes, thread, "load");
    return;
  }
  if (!write && p >= block.context && p + bytes <= block.context + block.context_size) return;
  if (!write && in_image(p)) return;
  check_global(p, bytes, write, thread);
}

}  // namespace

uint32_t* clock_of(int thread) { return &block.clocks[static_cast<size_t>(thread) * block.actors]; }

void join(uint32_t* into, const uint32_t* from) {
  for (int i = 0; i < block.actors; i++) into[i] = std::max(into[i], from[i]);
}

void synchronise(const std::vector<int>& threads) {
  if (!config.check) return;
  std::vector<uint32_t> joined(block.actors, 0);
  for (int t : threads) join(joined.data(), clock_of(t));
  for (int t : threads) {
    std::copy(joined.begin(), joined.end(), clock_of(t));
    clock_of(t)[t]++;
  }
}

void synchronise_warp(int warp) {
  std::vector<int> threads(kWarp);
  for (int i = 0; i < kWarp; i++) threads[i] = warp * kWarp + i;
  synchronise(threads);
}

std::string actor(int thread) {
  return thread >= block.threads ? "the copy engine" : "thread " + std::to_string(thread);
}

uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const char*>(pointer) - block.shared) + kSharedWindow;
}
char* at(uint32_t address) { return block.shared + (address - kSharedWindow); }

void check_shared_bounds(uint32_t address, size_t bytes, const char* operation) {
  if (address < kSharedWindow || address + bytes > kSharedWindow + block.shared_bytes)
    fail("shared memory out of bounds: %s of %zu bytes at offset %lld, the block has %zu bytes", operation,
         bytes, static_cast<long long>(address) - kSharedWindow, block.shared_bytes);
}

void check_read(uint32_t address, size_t bytes, int thread, const char* operation, bool async_proxy) {
  if (!config.check) return;
  const uint32_t* clock = clock_of(thread);
  for (uint32_t i = first_cell(address); i < end_cell(address, bytes); i++) {
    Cell& cell = block.cells[i];
    if (cell.flags & Cell::copy_in_flight)
      fail("%s reads shared+0x%x while an asynchronous copy into it is in flight: a wait is missing",
           operation, i * 2);
    if (!(cell.flags & Cell::initialised)) fail("%s reads uninitialised shared+0x%x", operation, i * 2);
    if (cell.writer && cell.writer - 1 != thread && !ordered(clock, cell.writer - 1, cell.write_clock))
      fail("RACE: %s by %s reads shared+0x%x, written by %s with no barrier between", operation,
           actor(thread).c_str(), i * 2, actor(cell.writer - 1).c_str());
    if (async_proxy && (cell.flags & Cell::generic_write))
      fail("%s reads shared+0x%x through the async proxy, last stored by %s without fence.proxy.async",
           operation, i * 2, actor(cell.writer - 1).c_str());
    // Remember the reader in its own slot, a free one, or that of a read this thread is ordered after.
    int slot = -1;
    for (int k = 0; k < Cell::kReaders; k++) {
      if (cell.reader[k] == thread + 1) {
        slot = k;
        break;
      }
      if (slot < 0 && (!cell.reader[k] || ordered(clock, cell.reader[k] - 1, cell.read_clock[k]))) slot = k;
    }
    if (slot < 0) slot = block.random() % Cell::kReaders;
    cell.reader[slot] = thread + 1;
    cell.read_clock[slot] = clock[thread];
  }
}

void check_write(uint32_t address, size_t bytes, int thread, const char* operation) {
  if (!config.check) return;
  for (uint32_t i = first_cell(address); i < end_cell(address, bytes); i++) {
    check_overwrite(block.cells[i], i * 2, thread, operation);
    set_writer(block.cells[i], thread, clock_of(thread)[thread], Cell::initialised | Cell::generic_write);
    block.generic_writes[thread].push_back(i);
  }
}

void begin_async_write(uint32_t address, size_t bytes, int thread, const char* operation) {
  if (!config.check) return;
  for (uint32_t i = first_cell(address); i < end_cell(address, bytes); i++) {
    check_overwrite(block.cells[i], i * 2, thread, operation);
    block.cells[i].flags |= Cell::copy_in_flight;
  }
}

void end_async_write(uint32_t address, size_t bytes, int thread, uint8_t flags) {
  if (!config.check) return;
  for (uint32_t i = first_cell(address); i < end_cell(address, bytes); i++) {
    set_writer(block.cells[i], thread, clock_of(thread)[thread], flags);
    if (flags & Cell::generic_write) block.generic_writes[thread].push_back(i);
  }
}

void begin_async_read(uint32_t address, size_t bytes, int thread, const char* operation) {
  if (!config.check) return;
  check_read(address, bytes, thread, operation, true);
  for (uint32_t i = first_cell(address); i < end_cell(address, bytes); i++) block.cells[i].async_readers++;
}

void end_async_read(uint32_t address, size_t bytes) {
  if (!config.check) return;
  for (uint32_t i = first_cell(address); i < end_cell(address, bytes); i++) block.cells[i].async_readers--;
}

void check_global(const void* pointer, size_t bytes, bool write, int thread) {
  const char* p = static_cast<const char*>(pointer);
  const char* verb = write ? "write" : "read";
  for (GlobalBuffer& buffer : buffers) {
    if (p < buffer.begin || p >= buffer.begin + buffer.bytes) continue;
    const size_t offset = p - buffer.begin;
    if (offset + bytes > buffer.bytes)
      fail("global memory out of bounds: %s of %zu bytes ends %zu bytes behind a buffer of %zu", verb, bytes,
           offset + bytes - buffer.bytes, buffer.bytes);
    if (reinterpret_cast<uintptr_t>(p) % bytes) fail("misaligned %zu-byte access to global memory", bytes);
    if (write && !buffer.writable) fail("write to a read-only buffer at +%zu", offset);
    if (!buffer.writable) return;
    const uint32_t linear = (block.index.z * block.grid.y + block.index.y) * block.grid.x + block.index.x;
    const uint32_t self = linear * (kMaxThreads + 1) + thread + 1;
    for (size_t i = offset; i < offset + bytes; i++) {
      if (buffer.writer[i] && buffer.writer[i] != self)
        fail("RACE: global +%zu, written by thread %u of block %u, is %s by %s", i,
             (buffer.writer[i] - 1) % (kMaxThreads + 1), (buffer.writer[i] - 1) / (kMaxThreads + 1),
             write ? "written" : "read", actor(thread).c_str());
      if (write) buffer.writer[i] = self;
    }
    return;
  }
  if (allow_everything) return;
  fail("global memory out of bounds: %s of %zu bytes at %p, which is in no buffer", verb, bytes, pointer);
}

void forget_global_accesses() {
  for (GlobalBuffer& buffer : buffers) std::fill(buffer.writer.begin(), buffer.writer.end(), 0);
}

void fence_proxy_async() {
  if (!config.check) return;
  const int thread = block.running->id;
  for (uint32_t i : block.generic_writes[thread])
    if (block.cells[i].writer == thread + 1) block.cells[i].flags &= ~Cell::generic_write;
  block.generic_writes[thread].clear();
}

void load_16_bytes(void* destination, const void* source) {
  access(source, 16, false);
  std::memcpy(destination, source, 16);
}
void store_16_bytes(void* destination, const void* source) {
  access(destination, 16, true);
  std::memcpy(destination, source, 16);
}

}  // namespace emulator

extern "C" {
void emulator_add_buffer(const void* pointer, size_t bytes, int writable) {
  using emulator::buffers;
  buffers.push_back({static_cast<const char*>(pointer), bytes, writable != 0, {}});
  if (writable) buffers.back().writer.resize(bytes);
}
void emulator_allow_everything(int on) { emulator::allow_everything = on != 0; }
void emulator_clear_buffers() { emulator::buffers.clear(); }

#define FASTCNN_TSAN_HOOKS(size)                                                  \
  void __tsan_read##size(void* p) { emulator::access(p, size, false); }           \
  void __tsan_write##size(void* p) { emulator::access(p, size, true); }           \
  void __tsan_unaligned_read##size(void* p) { emulator::access(p, size, false); } \
  void __tsan_unaligned_write##size(void* p) { emulator::access(p, size, true); } \
  void __tsan_volatile_read##size(void* p) { emulator::access(p, size, false); }  \
  void __tsan_volatile_write##size(void* p) { emulator::access(p, size, true); }
FASTCNN_TSAN_HOOKS(1)
FASTCNN_TSAN_HOOKS(2)
FASTCNN_TSAN_HOOKS(4)
FASTCNN_TSAN_HOOKS(8)
FASTCNN_TSAN_HOOKS(16)
void __tsan_read_range(void* p, size_t bytes) { emulator::access(p, bytes, false); }
void __tsan_write_range(void* p, size_t bytes) { emulator::access(p, bytes, true); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
