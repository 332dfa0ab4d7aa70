// Convolution by tiles of AMX, of bytes or of bfloat16: what both share.
//
// Rows of A are output pixels, its depth the bytes of their windows, [R][S][C], filled up to whole steps of
// 64. A 1x1 convolution of stride 1 reads its input in place where its channels fill the steps; every other
// window is copied first: a copy of a byte costs 1/32 cycle, its products K / 1024.
//
// Packed weights: of each panel of up to four vectors of 16 output channels, pairs of vectors, of each
// [step][vector][16][64 bytes].
#pragma once

#include "cpu/amx.h"
#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"

namespace fastcnn::FASTCNN_ISA {

template <class Problem>
struct AmxConvolution {
  const Problem& p;
  const int64_t size;  // bytes an element
  const Panels panels{p.K};
  const int64_t window = p.R * p.S * p.C * size, steps = tile_steps(window);
  const bool in_place = p.R == 1 && p.S == 1 && p.stride_h == 1 && p.stride_w == 1 && p.P == p.H &&
                        p.Q == p.W && window % kTileBytes == 0;

  int64_t packed_bytes() const { return panels.vecs() * steps * 1024; }
  // Where vector `v` of a panel of `vecs` begins, in the panel, and how far apart its steps lie.
  int64_t vector_at(int v) const { return (v / 2 * 2 * steps + v % 2) * 1024; }
  static int64_t step_bytes(int v, int vecs) { return min_of(2, vecs - v / 2 * 2) * 1024; }
  const char* panel(const void* packed, int64_t i) const {
    return static_cast<const char*>(packed) + panels.first_vec(i) * steps * 1024;
  }

  // put(depth, channel): the bytes of four depths (bytes) or two (bfloat16) of an output channel, from
  // `depth` on, counted in elements of the window; 0 where there are none.
  template <class F>
  void pack(void* packed, int threads, F&& put) const {
    const int64_t together = 4 / size;
    parallel_for(threads_for_bytes(threads, packed_bytes()), panels.count(), [&](int64_t i, int) {
      char* to = const_cast<char*>(panel(packed, i));
      for (int v = 0; v < panels.vecs_of(i); ++v)
        for (int64_t step = 0; step < steps; ++step) {
          char* tile = to + vector_at(v) + step * step_bytes(v, panels.vecs_of(i));
          for (int64_t line = 0; line < 16; ++line)
            for (int lane = 0; lane < 16; ++lane) {
              const uint32_t word = put(i, v, lane, (step * 16 + line) * together);
              __builtin_memcpy(tile + line * 64 + lane * 4, &word, 4);
            }
        }
    });
  }

  static void copy(char* to, const char* from, int64_t bytes) {
    for (; bytes > 0; bytes -= 64, to += 64, from += 64) {
      const __mmask64 lanes = bytes < 64 ? ((uint64_t)1 << bytes) - 1 : ~(uint64_t)0;
      _mm512_mask_storeu_epi8(to, lanes, _mm512_maskz_loadu_epi8(lanes, from));
    }
  }

  // The windows of output pixels [begin, begin + count); `outside` is a byte of what lies outside the image.
  void gather(const char* x, int outside, int64_t begin, int64_t count, char* to) const {
    const int64_t pixel = p.C * size, stride = p.x_stride * size, padded = steps * kTileBytes;
    const bool lines = p.dilation_w == 1 && stride == pixel;  // the taps of a line lie side by side
    for (int64_t row = begin; row < begin + count; ++row, to += padded) {
      const int64_t q = row % p.Q, rest = row / p.Q, n = rest / p.P;
      const int64_t top = rest % p.P * p.stride_h - p.pad_h, left = q * p.stride_w - p.pad_w;
      char* out = to;
      for (int64_t r = 0; r < p.R; ++r) {
        const int64_t h = top + r * p.dilation_h;
        const char* line = x + ((n * p.H + h) * p.W + left) * stride;
        if (h < 0 || h >= p.H) {
          __builtin_memset(out, outside, p.S * pixel);
          out += p.S * pixel;
        } else if (lines && left >= 0 && left + p.S <= p.W) {
          copy(out, line, p.S * pixel);
          out += p.S * pixel;
        } else {
          for (int64_t s = 0; s < p.S; ++s, out += pixel) {
            const int64_t w = left + s * p.dilation_w;
            if (w < 0 || w >= p.W)
              __builtin_memset(out, outside, pixel);
            else
              copy(out, line + s * p.dilation_w * stride, pixel);
          }
        }
      }
      if (window < padded) __builtin_memset(out, 0, padded - window);
    }
  }

  // finish(sums, row, rows, panel): sums of `rows` output pixels from `row` on by the columns of a panel, lines
  // of 64 elements of 4 bytes.
  template <bool kBytes, class F>
  void run(const void* x, int outside, const void* packed, int threads, F&& finish) const {
    constexpr int64_t kBlock = 128 << 10;  // bytes of rows a task works on: a share of L2
    const int64_t rows = p.N * p.P * p.Q, row_bytes = steps * kTileBytes;
    const int64_t pitch = in_place ? p.x_stride * size : row_bytes;
    // Waking a thread costs microseconds; each should have 5 us of work, at 2.6 cycles a nanosecond: products,
    // and half a cycle for each output.
    const double cycles = (double)rows * p.K * (row_bytes / 1024. + .5);
    const double useful = 1 + cycles / 13e3;
    if (useful < threads) threads = static_cast<int>(useful);
    // Threads share the panels where weights outweigh the input, so that each reads its own weights once.
    const int64_t fitting = max_of(kBlockRows, kBlock / row_bytes / kBlockRows * kBlockRows);
    int64_t row_blocks = (rows + fitting - 1) / fitting, panel_blocks = 1;
    if (panels.count() >= threads && rows * p.C * size * p.stride_h * p.stride_w < packed_bytes())
      panel_blocks = threads;
    else if (rows >= threads * kBlockRows)
      row_blocks = (row_blocks + threads - 1) / threads * threads;
    else
      panel_blocks = min_of<int64_t>(panels.count(), threads);

    parallel_for(threads, row_blocks * panel_blocks, [&](int64_t task, int) {
      const Range block = part_of(rows, row_blocks, task % row_blocks);
      const Range part = part_of(panels.count(), panel_blocks, task / row_blocks);
      const int64_t count = block.end - block.begin;
      char* memory =
          static_cast<char*>(scratch(Scratch::task, kBlockRows * 256 + (in_place ? 0 : count * row_bytes)));
      const char* a = static_cast<const char*>(x) + block.begin * pitch;
      if (!in_place) {
        gather(static_cast<const char*>(x), outside, block.begin, count, memory + kBlockRows * 256);
        a = memory + kBlockRows * 256;
      }
      int64_t shaped = 0;
      for (int64_t i = part.begin; i < part.end; ++i) {
        const char* weights = panel(packed, i);
        const char* next = i + 1 < part.end ? panel(packed, i + 1) : nullptr;
        for (int64_t row = 0; row < count; row += kBlockRows) {
          const int64_t here = min_of(kBlockRows, count - row);
          if (here != shaped) shape_tiles(shaped = here);
          multiply<kBytes>(here, panels.vecs_of(i), a + row * pitch, pitch, weights, memory,
                           row == 0 ? next : nullptr);
          finish(memory, block.begin + row, here, i);
        }
      }
      release_tiles();
    });
  }

 private:
  // All vectors of a panel, pair by pair.
  template <bool kBytes>
  void multiply(int64_t rows, int vecs, const char* a, int64_t pitch, const char* weights, char* sums,
                const char* next) const {
    for (int v = 0; v < vecs; v += 2, weights += 2 * steps * 1024, sums += 128) {
      const char* ahead = next ? next + vector_at(v) : nullptr;
      if (rows > kTileRows && v + 1 < vecs)
        multiply_tiles<kBytes, true, 2>(steps, a, pitch, weights, sums, 256, ahead);
      else if (rows > kTileRows)
        multiply_tiles<kBytes, true, 1>(steps, a, pitch, weights, sums, 256, ahead);
      else if (v + 1 < vecs)
        multiply_tiles<kBytes, false, 2>(steps, a, pitch, weights, sums, 256, ahead);
      else
        multiply_tiles<kBytes, false, 1>(steps, a, pitch, weights, sums, 256, ahead);
    }
  }
};

}  // namespace fastcnn::FASTCNN_ISA
