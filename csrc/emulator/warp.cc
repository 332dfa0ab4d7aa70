// Barriers and the warp's collectives.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "emulator/block.h"

namespace emulator {

const char* name(Collective operation) {
  static const char* const names[] = {"none", "syncwarp", "shuffle",     "any",          "ldmatrix",
                                      "mma",  "wgmma",    "wgmma.fence", "wgmma.commit", "wgmma.wait"};
  return names[static_cast<int>(operation)];
}

bool meet(Rendezvous& meeting, int size, Collective operation) {
  if (meeting.arrived == 0)
    meeting.operation = operation;
  else if (meeting.operation != operation)
    fail("divergent collective: %s, while %d other lanes are at %s", name(operation), meeting.arrived,
         name(meeting.operation));
  if (++meeting.arrived == size) {
    meeting.arrived = 0;
    return true;
  }
  block_on(Wait::collective, static_cast<uint32_t>(operation));
  return false;
}

void wake(int first, int count) {
  for (int i = 0; i < count; i++) block.fibers[first + i].state = State::ready;
}

void named_barrier(int id, int threads) {
  NamedBarrier& barrier = block.barriers[id];
  if (!barrier.arrived.empty() && barrier.threads != threads)
    fail("barrier %d: waiting for %d threads, while others wait there for %d", id, threads, barrier.threads);
  barrier.threads = threads;
  barrier.arrived.push_back(block.running->id);
  if (static_cast<int>(barrier.arrived.size()) < threads) return block_on(Wait::barrier, id);
  synchronise(barrier.arrived);
  for (int t : barrier.arrived) block.fibers[t].state = State::ready;
  barrier.arrived.clear();
}

void block_barrier() { named_barrier(0, block.threads); }

void warp_barrier() {
  const int warp = block.running->id / kWarp;
  if (!meet(block.warps[warp], kWarp, Collective::syncwarp)) return;
  synchronise_warp(warp);
  wake(warp * kWarp, kWarp);
}

uint32_t shuffle(uint32_t value, int source_lane) {
  Fiber& fiber = *block.running;
  const int first = fiber.id / kWarp * kWarp;
  fiber.in[0] = value;
  fiber.in[1] = source_lane & (kWarp - 1);
  if (meet(block.warps[first / kWarp], kWarp, Collective::shuffle)) {
    for (int i = 0; i < kWarp; i++) {
      Fiber& lane = block.fibers[first + i];
      lane.out[0] = block.fibers[first + lane.in[1]].in[0];
    }
    wake(first, kWarp);
  }
  return fiber.out[0];
}

bool any_lane(bool condition) {
  Fiber& fiber = *block.running;
  const int first = fiber.id / kWarp * kWarp;
  fiber.in[0] = condition;
  if (meet(block.warps[first / kWarp], kWarp, Collective::any)) {
    uint32_t any = 0;
    for (int i = 0; i < kWarp; i++) any |= block.fibers[first + i].in[0];
    for (int i = 0; i < kWarp; i++) block.fibers[first + i].out[0] = any;
    wake(first, kWarp);
  }
  return fiber.out[0] != 0;
}

// Lane 8i + r gives the address of row r of matrix i; lane l receives elements (l/4, 2(l%4)) and the next.
void ldmatrix_x4(uint32_t registers[4], uint32_t address) {
  Fiber& fiber = *block.running;
  const int first = fiber.id / kWarp * kWarp;
  if (address & 15) fail("ldmatrix: row address shared+0x%x is not 16-byte aligned", address - kSharedWindow);
  check_shared_bounds(address, 16, "ldmatrix");
  check_read(address, 16, fiber.id, "ldmatrix");
  fiber.in[0] = address;
  if (meet(block.warps[first / kWarp], kWarp, Collective::ldmatrix)) {
    Fiber* lanes = &block.fibers[first];
    for (int matrix = 0; matrix < 4; matrix++)
      for (int lane = 0; lane < kWarp; lane++)
        std::memcpy(&lanes[lane].out[matrix], at(lanes[matrix * 8 + lane / 4].in[0]) + lane % 4 * 4, 4);
    wake(first, kWarp);
  }
  std::memcpy(registers, fiber.out, sizeof fiber.out);
}

float decode(const uint8_t* bytes, MmaType type) {
  uint32_t bits = 0;
  if (type == MmaType::float16) {
    _Float16 half;
    std::memcpy(&half, bytes, 2);
    return static_cast<float>(half);
  }
  if (type == MmaType::bfloat16) {
    uint16_t high;
    std::memcpy(&high, bytes, 2);
    bits = static_cast<uint32_t>(high) << 16;
  } else {  // tf32: the tensor core ignores the low 13 bits
    std::memcpy(&bits, bytes, 4);
    bits &= 0xffffe000u;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

float truncate(double sum) {
  const float nearest = static_cast<float>(sum);
  return std::fabs(nearest) > std::fabs(sum) ? std::nextafterf(nearest, 0.0f) : nearest;
}

// m16n8, k16 (16-bit types) or k8 (tf32). With g = lane / 4, t = lane % 4 and e elements to a register:
//   A registers: (g, te), (g+8, te), (g, te + 4e), (g+8, te + 4e); B: (te, g), (te + 4e, g); D: (g, 2t),
//   (g+8, 2t).
void mma(float d[4], const uint32_t a[4], const uint32_t b[2], MmaType type) {
  Fiber& fiber = *block.running;
  const int first = fiber.id / kWarp * kWarp;
  fiber.d = d;
  fiber.a = a;
  fiber.b = b;
  fiber.in[0] = static_cast<uint32_t>(type);
  if (!meet(block.warps[first / kWarp], kWarp, Collective::mma)) return;
  Fiber* lanes = &block.fibers[first];
  const int per_register = type == MmaType::tf32 ? 1 : 2, element_size = 4 / per_register,
            k = 8 * per_register;
  float A[16][16], B[16][8], D[16][8];
  for (int lane = 0; lane < kWarp; lane++) {
    if (lanes[lane].in[0] != static_cast<uint32_t>(type))
      fail("divergent collective: mma of different types");
    const int g = lane / 4, t = lane % 4;
    for (int e = 0; e < per_register; e++) {
      auto element = [&](const uint32_t* registers, int i) {
        return decode(reinterpret_cast<const uint8_t*>(registers + i) + e * element_size, type);
      };
      const int low = t * per_register + e, high = low + 4 * per_register;
      A[g][low] = element(lanes[lane].a, 0);
      A[g + 8][low] = element(lanes[lane].a, 1);
      A[g][high] = element(lanes[lane].a, 2);
      A[g + 8][high] = element(lanes[lane].a, 3);
      B[low][g] = element(lanes[lane].b, 0);
      B[high][g] = element(lanes[lane].b, 1);
    }
    std::copy_n(lanes[lane].d, 2, &D[g][2 * t]);
    std::copy_n(lanes[lane].d + 2, 2, &D[g + 8][2 * t]);
  }
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 8; n++) {
      double sum = D[m][n];
      for (int i = 0; i < k; i++) sum += static_cast<double>(A[m][i]) * B[i][n];
      D[m][n] = truncate(sum);
    }
  for (int lane = 0; lane < kWarp; lane++) {
    std::copy_n(&D[lane / 4][lane % 4 * 2], 2, lanes[lane].d);
    std::copy_n(&D[lane / 4 + 8][lane % 4 * 2], 2, lanes[lane].d + 2);
  }
  wake(first, kWarp);
}

}  // namespace emulator
