#include "cpu/fingerprint.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

constexpr int64_t kLine = 64;                     // bytes
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;  // 2^64 / 1.618...

// Eight sums side by side. Each word is added, which no change of one word leaves alone, and its halves are
// multiplied with each other after it is mixed with its place, which no sign flip and no exchange leaves
// alone.
struct Sums {
  uint64_t sum[8] = {1, 2, 3, 4, 5, 6, 7, 8};

  void add(const void* line, uint64_t place) {
    uint64_t words[8];
    __builtin_memcpy(words, line, kLine);
    for (int j = 0; j < 8; ++j) {
      const uint64_t key = words[j] ^ (kGolden * (j + 1) + place);
      sum[j] += words[j] + uint64_t(uint32_t(key)) * uint32_t(key >> 32);
    }
  }

  uint64_t all(uint64_t hash) const {
    for (int j = 0; j < 8; ++j) hash += (sum[j] ^ sum[j] >> 31) * (kGolden * (2 * j + 3));
    return hash ^ hash >> 32;
  }
};

const char* spread_line(const void* begin, int64_t lines, uint64_t i) {
  return static_cast<const char*>(begin) + static_cast<int64_t>((i * kGolden >> 32) * lines >> 32) * kLine;
}

}  // namespace

uint64_t fingerprint(const void* begin, int64_t bytes) {
  const auto* data = static_cast<const char*>(begin);
  const int64_t lines = bytes / kLine, rest = bytes % kLine;
  Sums sums;
  if (bytes > kFingerprintWhole) {
    for (int64_t i = 0; i < kFingerprintLines; ++i) sums.add(spread_line(begin, lines, i), i * kGolden);
    return sums.all(bytes);
  }
  for (int64_t i = 0; i < lines; ++i) sums.add(data + i * kLine, i * kGolden);
  if (rest) {
    char line[kLine] = {};
    __builtin_memcpy(line, data + lines * kLine, rest);
    sums.add(line, lines * kGolden);
  }
  return sums.all(bytes);
}

void prefetch_fingerprint(const void* begin, int64_t bytes) {
  const auto* data = static_cast<const char*>(begin);
  if (bytes > kFingerprintWhole)
    for (int64_t i = 0; i < kFingerprintLines; ++i) __builtin_prefetch(spread_line(begin, bytes / kLine, i));
  else
    for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(data + i);
}

}  // namespace fastcnn::FASTCNN_ISA
