// wgmma: a warpgroup multiplies tiles in shared memory, asynchronously. Until a warp waits, its accumulators
// hold NaN (lazy) and the tiles count as being read.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "emulator/block.h"

namespace emulator {

namespace {

constexpr int kRows = 64, kChunks = 2;  // one instruction reads 32 bytes, two 16-byte chunks, of each row

int element_size(MmaType type) { return type == MmaType::tf32 ? 4 : 2; }

// Where a K-major descriptor finds a 16-byte chunk of a row: groups of 8 rows are `stride` apart, rows of a
// group one swizzle span apart, and the whole address is swizzled.
uint32_t chunk_address(uint64_t descriptor, int row, int chunk) {
  const uint32_t start = (descriptor & 0x3fff) << 4, stride = ((descriptor >> 32) & 0x3fff) << 4;
  const int layout = descriptor >> 62, swizzle = layout == 1 ? 3 : layout == 2 ? 2 : 1;
  return swizzled(start + row / 8 * stride + row % 8 * (16 << swizzle) + chunk * 16, swizzle);
}

void check_descriptor(uint64_t descriptor, const char* which) {
  if (descriptor >> 62 == 0) fail("wgmma %s: the descriptor names no swizzle", which);
  if ((descriptor >> 49) & 7) fail("wgmma %s: base offset is not modelled", which);
  if (((descriptor >> 32) & 0x3fff) == 0) fail("wgmma %s: the stride between 8-row groups is 0", which);
}

template <class F>
void for_each_chunk(uint64_t descriptor, int first_row, int end_row, F&& f) {
  for (int row = first_row; row < end_row; row++)
    for (int chunk = 0; chunk < kChunks; chunk++) f(row, chunk, chunk_address(descriptor, row, chunk));
}

void execute(Wgmma& w) {
  if (w.executed) return;
  w.executed = true;
  const int per_chunk = 16 / element_size(w.type);
  float A[kRows][16], B[16][256];
  for_each_chunk(w.a, 0, kRows, [&](int row, int chunk, uint32_t address) {
    for (int e = 0; e < per_chunk; e++)
      A[row][chunk * per_chunk + e] =
          decode(reinterpret_cast<uint8_t*>(at(address)) + e * element_size(w.type), w.type);
  });
  for_each_chunk(w.b, 0, w.n, [&](int row, int chunk, uint32_t address) {
    for (int e = 0; e < per_chunk; e++)
      B[chunk * per_chunk + e][row] =
          decode(reinterpret_cast<uint8_t*>(at(address)) + e * element_size(w.type), w.type);
  });
  std::vector<float>& tile = w.accumulators->tile;
  if (!w.accumulate) std::fill(tile.begin(), tile.end(), 0.0f);
  for (int m = 0; m < kRows; m++) {
    double sum[256];
    for (int n = 0; n < w.n; n++) sum[n] = tile[m * w.n + n];
    for (int k = 0; k < kChunks * per_chunk; k++)
      for (int n = 0; n < w.n; n++) sum[n] += static_cast<double>(A[m][k]) * B[k][n];
    for (int n = 0; n < w.n; n++) tile[m * w.n + n] = truncate(sum[n]);
  }
}

// Register 4j + 2h + e of a thread is element (16 warp + lane/4 + 8h, 8j + 2(lane%4) + e) of the 64 x n tile.
template <class F>
void for_each_register(Accumulators& accumulators, int n, int first_thread, int end_thread, F&& f) {
  for (int t = first_thread; t < end_thread; t++)
    for (int j = 0; j < n / 8; j++)
      for (int h = 0; h < 2; h++)
        for (int e = 0; e < 2; e++) {
          const int row = t / kWarp * 16 + t % kWarp / 4 + 8 * h, column = 8 * j + t % 4 * 2 + e;
          f(accumulators.registers[t][4 * j + 2 * h + e], accumulators.tile[row * n + column]);
        }
}
void poison(float& reg, float&) { reg = NAN; }
void gather(float& reg, float& element) { element = reg; }
void scatter(float& reg, float& element) { reg = element; }

}  // namespace

void set_max_registers(int count) {
  if (count % 8 || count < 24 || count > 256) fail("setmaxnreg: %d is not a multiple of 8 in 24..256", count);
}

void wgmma_fence() {
  const int group = block.running->id / kWarpgroup;
  block.running->wgmma_fenced = true;
  if (meet(block.warpgroup_meetings[group], kWarpgroup, Collective::wgmma_fence))
    wake(group * kWarpgroup, kWarpgroup);
}

void wgmma(float* accumulators, uint64_t a, uint64_t b, int n, MmaType type, bool accumulate) {
  Fiber& fiber = *block.running;
  const int group = fiber.id / kWarpgroup, first = group * kWarpgroup;
  if (!fiber.wgmma_fenced) fail("wgmma without wgmma.fence since the kernel's start or the last wait_group");
  fiber.d = accumulators;
  fiber.descriptor_a = a;
  fiber.descriptor_b = b;
  if (!meet(block.warpgroup_meetings[group], kWarpgroup, Collective::wgmma)) return;
  Warpgroup& warpgroup = block.warpgroups[group];
  for (int t = 0; t < kWarpgroup; t++)
    if (block.fibers[first + t].descriptor_a != a || block.fibers[first + t].descriptor_b != b)
      fail("wgmma: thread %d passes other descriptors", first + t);
  check_descriptor(a, "A");
  check_descriptor(b, "B");
  for_each_chunk(a, 0, kRows, [&](int row, int, uint32_t address) {
    check_shared_bounds(address, 16, "wgmma A");
    begin_async_read(address, 16, first + row / 16 * kWarp, "wgmma A");
  });
  for_each_chunk(b, 0, n, [&](int, int, uint32_t address) {
    check_shared_bounds(address, 16, "wgmma B");
    begin_async_read(address, 16, first, "wgmma B");
    for (int warp = 1; warp < 4; warp++) check_read(address, 16, first + warp * kWarp, "wgmma B", true);
  });
  Accumulators& set = warpgroup.accumulators[block.fibers[first].d];
  if (!(set.in_flight[0] | set.in_flight[1] | set.in_flight[2] | set.in_flight[3])) {
    set.tile.resize(kRows * n);
    for (int t = 0; t < kWarpgroup; t++) set.registers[t] = block.fibers[first + t].d;
    for_each_register(set, n, 0, kWarpgroup, gather);
    if (config.lazy) for_each_register(set, n, 0, kWarpgroup, poison);
  }
  for (int& warp : set.in_flight) warp++;
  Wgmma w{a, b, n, type, accumulate, false, &set};
  if (!config.lazy) {
    execute(w);
    for_each_register(set, n, 0, kWarpgroup, scatter);
  }
  warpgroup.open.push_back(w);
  wake(first, kWarpgroup);
}

void wgmma_commit() {
  const int group = block.running->id / kWarpgroup;
  if (!meet(block.warpgroup_meetings[group], kWarpgroup, Collective::wgmma_commit)) return;
  Warpgroup& warpgroup = block.warpgroups[group];
  warpgroup.groups.push_back(std::move(warpgroup.open));
  warpgroup.open.clear();
  wake(group * kWarpgroup, kWarpgroup);
}

// Groups already waited for by all four warps are gone from the front of the queue, so the queue's length
// counts the same groups for every warp.
void wgmma_wait(int pending_groups) {
  Fiber& fiber = *block.running;
  const int group = fiber.id / kWarpgroup, warp = fiber.id / kWarp, quarter = warp % 4;
  fiber.wgmma_fenced = false;
  if (!meet(block.warps[warp], kWarp, Collective::wgmma_wait)) return;
  Warpgroup& warpgroup = block.warpgroups[group];
  for (size_t i = 0; i + pending_groups < warpgroup.groups.size(); i++) {
    for (Wgmma& w : warpgroup.groups[i]) {
      if (w.waited_by >> quarter & 1) continue;
      w.waited_by |= 1 << quarter;
      execute(w);
      if (--w.accumulators->in_flight[quarter] == 0 && config.lazy)
        for_each_register(*w.accumulators, w.n, quarter * kWarp, (quarter + 1) * kWarp, scatter);
      // From here on the reads are this warp's: whoever overwrites the tiles must be ordered after all four.
      for_each_chunk(w.a, quarter * 16, quarter * 16 + 16,
                     [&](int, int, uint32_t address) { check_read(address, 16, warp * kWarp, "wgmma A"); });
      for_each_chunk(w.b, 0, w.n,
                     [&](int, int, uint32_t address) { check_read(address, 16, warp * kWarp, "wgmma B"); });
      if (w.waited_by != 15) continue;
      for_each_chunk(w.a, 0, kRows, [&](int, int, uint32_t address) { end_async_read(address, 16); });
      for_each_chunk(w.b, 0, w.n, [&](int, int, uint32_t address) { end_async_read(address, 16); });
    }
  }
  auto finished = [](const Wgmma& w) { return w.waited_by == 15; };
  auto& groups = warpgroup.groups;
  while (!groups.empty() && std::all_of(groups[0].begin(), groups[0].end(), finished)) groups.pop_front();
  synchronise_warp(warp);  // wait_group is .sync.aligned: the warp's lanes converge
  wake(warp * kWarp, kWarp);
}

}  // namespace emulator
