// cp.async, mbarriers and TMA: work that lands later. Eager, it lands when issued; lazy, as late as the
// program allows: cp.async at the issuing thread's wait, TMA loads only when no thread can run, TMA stores at
// their wait.
#include <algorithm>
#include <cstring>

#include "emulator/block.h"

namespace emulator {

namespace {

void land(const AsyncCopy& copy) {
  std::memset(at(copy.destination), 0, copy.size);
  std::memcpy(at(copy.destination), copy.source, copy.valid);
}

Mbarrier& find_mbarrier(uint32_t address, const char* operation) {
  check_shared_bounds(address, 8, operation);
  if (address & 7)
    fail("%s: mbarrier at shared+0x%x is not 8-byte aligned", operation, address - kSharedWindow);
  auto found = block.mbarriers.find(address);
  if (found == block.mbarriers.end())
    fail("%s on mbarrier shared+0x%x before mbarrier.init", operation, address - kSharedWindow);
  if (config.check) {
    const Cell& cell = block.cells[(address - kSharedWindow) / 2];
    const int thread = block.running->id;
    if (cell.writer - 1 != thread && clock_of(thread)[cell.writer - 1] < cell.write_clock)
      fail("RACE: %s on mbarrier shared+0x%x is not ordered after its init by %s", operation,
           address - kSharedWindow, actor(cell.writer - 1).c_str());
  }
  return found->second;
}

void complete_if_due(Mbarrier& m) {
  if (m.pending || m.transaction_bytes) return;
  m.phase++;
  m.pending = m.expected;
  m.phase_clock = m.arrived_clock;
}

void arrive(Mbarrier& m, uint32_t address) {
  if (config.check) {
    const int thread = block.running->id;
    join(m.arrived_clock.data(), clock_of(thread));
    clock_of(thread)[thread]++;
  }
  if (--m.pending < 0)
    fail("mbarrier shared+0x%x: more arrivals than its count of %d", address - kSharedWindow, m.expected);
  complete_if_due(m);
}

void round_to_tf32(char* element) {
  uint32_t bits;
  std::memcpy(&bits, element, 4);
  if ((bits & 0x7f800000) != 0x7f800000) bits = (bits + 0x1000) & 0xffffe000;  // infinity and NaN pass
  std::memcpy(element, &bits, 4);
}

// The box in shared memory: traversal strides thin it out.
int box_extent(const TensorMap& map, int i) { return (map.box[i] + map.traversal[i] - 1) / map.traversal[i]; }

// Calls f(byte offset in the box, pointer into the tensor or null outside it) for each element of the box.
template <class F>
void for_each_element(const TensorMap& map, const int* coordinates, F&& f) {
  uint32_t elements = 1;
  for (int i = 0; i < map.rank; i++) elements *= box_extent(map, i);
  for (uint32_t e = 0; e < elements; e++) {
    uint32_t rest = e;
    int64_t offset = 0;
    bool inside = true;
    for (int i = 0; i < map.rank; i++) {
      const int64_t c = coordinates[i] + static_cast<int64_t>(rest % box_extent(map, i)) * map.traversal[i];
      rest /= box_extent(map, i);
      inside &= c >= 0 && c < static_cast<int64_t>(map.size[i]);
      offset += c * static_cast<int64_t>(map.stride[i]);
    }
    f(e * map.element_size, inside ? map.base + offset : nullptr);
  }
}

uint32_t box_bytes(const TensorMap& map) {
  uint32_t bytes = map.element_size;
  for (int i = 0; i < map.rank; i++) bytes *= box_extent(map, i);
  return bytes;
}

void check_box(const char* operation, uint32_t shared, const TensorMap& map, int rank) {
  if (rank != map.rank) fail("%s: rank %d, the tensor map's is %d", operation, rank, map.rank);
  const uint32_t alignment = map.swizzle == 3 ? 1024 : map.swizzle == 2 ? 512 : map.swizzle == 1 ? 256 : 128;
  if (shared % alignment)
    fail("%s: shared+0x%x is not %u-byte aligned", operation, shared - kSharedWindow, alignment);
  check_shared_bounds(shared, box_bytes(map), operation);
}

void land(const TmaStore& store) {
  for_each_element(store.map, store.coordinates, [&](uint32_t offset, char* global) {
    if (!global) return;
    check_global(global, store.map.element_size, true, block.threads);
    std::memcpy(global, at(swizzled(store.source + offset, store.map.swizzle)), store.map.element_size);
  });
}

}  // namespace

// ---- cp.async

void cp_async(uint32_t destination, const void* source, int size, int valid) {
  Fiber& fiber = *block.running;
  check_shared_bounds(destination, size, "cp.async");
  if (destination % size || reinterpret_cast<uintptr_t>(source) % size)
    fail("cp.async: not %d-byte aligned", size);
  if (valid < 0 || valid > size) fail("cp.async: %d valid bytes of %d", valid, size);
  if (valid) check_global(source, valid, false, fiber.id);
  begin_async_write(destination, size, fiber.id, "cp.async");
  const AsyncCopy copy{destination, static_cast<const char*>(source), size, valid};
  if (!config.lazy) land(copy);
  fiber.open_copies.push_back(copy);
}

void cp_async_commit() {
  Fiber& fiber = *block.running;
  fiber.copy_groups.push_back(std::move(fiber.open_copies));
  fiber.open_copies.clear();
}

void cp_async_wait(int pending_groups) {
  Fiber& fiber = *block.running;
  while (static_cast<int>(fiber.copy_groups.size()) > pending_groups) {
    for (const AsyncCopy& copy : fiber.copy_groups.front()) {
      if (config.lazy) land(copy);
      end_async_write(copy.destination, copy.size, fiber.id, Cell::initialised | Cell::generic_write);
    }
    fiber.copy_groups.pop_front();
  }
}

// ---- mbarriers

void mbarrier_init(uint32_t address, int count) {
  check_shared_bounds(address, 8, "mbarrier.init");
  check_write(address, 8, block.running->id, "mbarrier.init");
  Mbarrier m;
  m.expected = m.pending = count;
  m.engine = block.threads + static_cast<int>(block.mbarriers.size()) % kCopyEngines;
  m.arrived_clock.assign(block.actors, 0);
  m.phase_clock.assign(block.actors, 0);
  block.mbarriers[address] = m;
}

void fence_mbarrier_init() { fence_proxy_async(); }

void mbarrier_arrive(uint32_t address) { arrive(find_mbarrier(address, "mbarrier.arrive"), address); }

void mbarrier_arrive_expect_tx(uint32_t address, uint32_t bytes) {
  Mbarrier& m = find_mbarrier(address, "mbarrier.arrive.expect_tx");
  m.transaction_bytes += bytes;
  arrive(m, address);
}

bool mbarrier_phase_complete(uint32_t address, uint32_t parity) {
  return (block.mbarriers[address].phase & 1) != parity;
}

void mbarrier_wait(uint32_t address, uint32_t parity) {
  Mbarrier& m = find_mbarrier(address, "mbarrier.try_wait");
  if (parity > 1) fail("mbarrier.try_wait: parity %u", parity);
  if (!mbarrier_phase_complete(address, parity)) block_on(Wait::mbarrier, address, parity);
  if (config.check) join(clock_of(block.running->id), m.phase_clock.data());
}

// ---- TMA

uint32_t swizzled(uint32_t address, int swizzle) {
  const uint32_t mask = (1u << swizzle) - 1;
  return address ^ (((address >> 7) & mask) << 4);
}

const char* encode_tensor_map(TensorMap* map, int element_size, int rank, void* base, const uint64_t* size,
                              const uint64_t* stride_bytes, const uint32_t* box, const uint32_t* traversal,
                              int swizzle, bool rounds_to_tf32) {
  if (rank < 1 || rank > 5) return "the rank must be 1 to 5";
  if (reinterpret_cast<uintptr_t>(base) % 16) return "the tensor must be 16-byte aligned";
  *map = TensorMap{};
  map->base = static_cast<char*>(base);
  map->rank = rank;
  map->element_size = element_size;
  map->swizzle = swizzle;
  map->rounds_to_tf32 = rounds_to_tf32 && element_size == 4;
  for (int i = 0; i < rank; i++) {
    if (size[i] < 1 || size[i] > (uint64_t{1} << 32)) return "a size must be 1 to 2^32";
    if (box[i] < 1 || box[i] > 256) return "a box must be 1 to 256 wide";
    if (traversal[i] < 1 || traversal[i] > 8) return "a traversal stride must be 1 to 8";
    if (i && (stride_bytes[i - 1] % 16 || stride_bytes[i - 1] >= (uint64_t{1} << 40)))
      return "a stride must be a multiple of 16 bytes below 2^40";
    map->size[i] = size[i];
    map->box[i] = box[i];
    map->traversal[i] = traversal[i];
    map->stride[i] = i ? stride_bytes[i - 1] : element_size;
  }
  const uint32_t row = box[0] * element_size, span = 16u << swizzle;
  if (row % 16) return "the inner box must be a multiple of 16 bytes";
  if (swizzle && row > span) return "the inner box must fit into the swizzle span";
  return nullptr;
}

void tma_load(uint32_t destination, const TensorMap* map, uint32_t barrier, int rank,
              const int* coordinates) {
  find_mbarrier(barrier, "cp.async.bulk.tensor");
  check_box("TMA load", destination, *map, rank);
  if (config.check && (block.cells[(barrier - kSharedWindow) / 2].flags & Cell::generic_write))
    fail("TMA load: its mbarrier was initialised without fence.mbarrier_init");
  for_each_element(*map, coordinates, [&](uint32_t, char* global) {
    if (global) check_global(global, map->element_size, false, block.running->id);
  });
  begin_async_write(destination, box_bytes(*map), block.running->id, "TMA load");
  TmaLoad load{*map, destination, barrier, {}};
  std::copy_n(coordinates, rank, load.coordinates);
  block.tma_loads.push_back(load);
  if (!config.lazy) land_tma_load(block.tma_loads.size() - 1);
}

void land_tma_load(size_t index) {
  const TmaLoad load = block.tma_loads[index];
  block.tma_loads.erase(block.tma_loads.begin() + index);
  for_each_element(load.map, load.coordinates, [&](uint32_t offset, char* global) {
    char* shared = at(swizzled(load.destination + offset, load.map.swizzle));
    if (global)
      std::memcpy(shared, global, load.map.element_size);
    else
      std::memset(shared, 0, load.map.element_size);
    if (load.map.rounds_to_tf32) round_to_tf32(shared);
  });
  Mbarrier& m = block.mbarriers[load.barrier];
  const uint32_t bytes = box_bytes(load.map);
  if (config.check) {
    const int engine = m.engine;
    end_async_write(load.destination, bytes, engine, Cell::initialised);
    m.arrived_clock[engine] = clock_of(engine)[engine]++;
  }
  m.transaction_bytes -= bytes;
  complete_if_due(m);
}

void tma_store(uint32_t source, const TensorMap* map, int rank, const int* coordinates) {
  check_box("TMA store", source, *map, rank);
  const int thread = block.running->id;
  begin_async_read(source, box_bytes(*map), thread, "TMA store");
  TmaStore store{*map, source, {}, thread};
  std::copy_n(coordinates, rank, store.coordinates);
  if (!config.lazy) land(store);
  block.open_stores[thread].push_back(store);
}

void tma_store_commit() {
  const int thread = block.running->id;
  block.store_groups[thread].push_back(std::move(block.open_stores[thread]));
  block.open_stores[thread].clear();
}

void tma_store_wait_read(int pending_groups) {
  const int thread = block.running->id;
  auto& groups = block.store_groups[thread];
  while (static_cast<int>(groups.size()) > pending_groups) {
    for (const TmaStore& store : groups.front()) {
      if (config.lazy) land(store);
      end_async_read(store.source, box_bytes(store.map));
      check_read(store.source, box_bytes(store.map), thread, "TMA store");
    }
    groups.pop_front();
  }
}

bool async_work_in_flight(const Fiber& fiber, std::string* what) {
  bool copies = !fiber.open_copies.empty();
  for (auto& group : fiber.copy_groups) copies |= !group.empty();
  if (copies) return *what = "cp.async", true;
  bool stores = !block.open_stores[fiber.id].empty();
  for (auto& group : block.store_groups[fiber.id]) stores |= !group.empty();
  if (stores) return *what = "TMA stores", true;
  const int warp = fiber.id % kWarpgroup / kWarp;
  for (auto& group : block.warpgroups[fiber.id / kWarpgroup].groups)
    for (const Wgmma& w : group)
      if (!(w.waited_by >> warp & 1)) return *what = "wgmma", true;
  return false;
}

}  // namespace emulator
