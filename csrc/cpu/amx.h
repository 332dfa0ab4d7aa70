// AMX: products of tiles, 16 rows of 64 bytes by 64 bytes of 16 columns, 1024 products of bytes a cycle.
//
// A block is up to 32 rows of A by two vectors of columns of B, in four tiles of sums: then two loaded tiles
// of A and two of B serve four products, and loads (8 cycles each from L1) hide behind products (16 each).
#pragma once

#include <immintrin.h>

#include "cpu/simd.h"

namespace fastcnn::FASTCNN_ISA {

constexpr int64_t kTileRows = 16, kTileBytes = 64;  // of A and of the sums; 64 bytes are a step of depth
constexpr int64_t kBlockRows = 2 * kTileRows;

// Steps along a row of so many bytes, the last one filled up with zeros.
FASTCNN_INLINE int64_t tile_steps(int64_t bytes) { return (bytes + kTileBytes - 1) / kTileBytes; }

// Everything stored before is in memory after: GCC's intrinsics do not say what memory they read, and stores to
// it may then be moved behind them, or left out.
FASTCNN_INLINE void memory_is_read() { asm volatile("" ::: "memory"); }

// The tiles' shapes for a block of `rows` rows. Clears all tiles, so that it stands before a block.
FASTCNN_INLINE void shape_tiles(int64_t rows) {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } shapes;
  const uint8_t first = min_of(rows, kTileRows), second = max_of<int64_t>(rows - kTileRows, 1);
  const uint8_t of_tile[8] = {first, first, second, second, first, second, kTileRows, kTileRows};
  for (int i = 0; i < 8; ++i) shapes.bytes[i] = kTileBytes, shapes.rows[i] = of_tile[i];
  memory_is_read();
  _tile_loadconfig(&shapes);
}
FASTCNN_INLINE void release_tiles() { _tile_release(); }

#define FASTCNN_PRODUCT(sums, a, b) \
  do {                              \
    if constexpr (kBytes)           \
      _tile_dpbusd(sums, a, b);     \
    else                            \
      _tile_dpbf16ps(sums, a, b);   \
  } while (0)

// sums[row][column]: what rows of A, a_pitch bytes apart, and NV vectors of columns make: int32 of u8 by s8
// (kBytes), or float of bfloat16. A row is `runs` runs of `steps` steps, which begin at rows + offsets[run].
// b: [runs * steps][NV][16][64 bytes], a line holding four bytes or two
// bfloat16 of each column. shape_tiles(rows) must have been called. next: weights to be wanted soon.
template <bool kBytes, bool kTwo, int NV>
FASTCNN_INLINE void multiply_tiles(int64_t runs, int64_t steps, const int64_t* offsets, const char* rows,
                                   int64_t a_pitch, const char* b, char* sums, int64_t sums_pitch,
                                   const char* next) {
  memory_is_read();
  _tile_zero(0);
  if constexpr (NV == 2) _tile_zero(1);
  if constexpr (kTwo) _tile_zero(2);
  if constexpr (kTwo && NV == 2) _tile_zero(3);
  for (int64_t run = 0; run < runs; ++run) {
    const char *a = rows + offsets[run], *second = a + kTileRows * a_pitch;
    for (int64_t step = 0; step < steps; ++step, a += kTileBytes, second += kTileBytes, b += NV * 1024) {
      if (next) {
        for (int64_t line = 0; line < NV * 1024; line += 64) __builtin_prefetch(next + line, 0, 2);
        next += NV * 1024;
      }
      _tile_loadd(6, b, 64);
      _tile_loadd(4, a, a_pitch);
      FASTCNN_PRODUCT(0, 4, 6);
      if constexpr (NV == 2) {
        _tile_loadd(7, b + 1024, 64);
        FASTCNN_PRODUCT(1, 4, 7);
      }
      if constexpr (kTwo) {
        _tile_loadd(5, second, a_pitch);
        FASTCNN_PRODUCT(2, 5, 6);
        if constexpr (NV == 2) FASTCNN_PRODUCT(3, 5, 7);
      }
    }
  }
  _tile_stored(0, sums, sums_pitch);
  if constexpr (NV == 2) _tile_stored(1, sums + 64, sums_pitch);
  if constexpr (kTwo) _tile_stored(2, sums + kTileRows * sums_pitch, sums_pitch);
  if constexpr (kTwo && NV == 2) _tile_stored(3, sums + kTileRows * sums_pitch + 64, sums_pitch);
}
#undef FASTCNN_PRODUCT

}  // namespace fastcnn::FASTCNN_ISA
