// Convolution by tiles of AMX, of bytes or of bfloat16: what both share.
//
// Rows of A are output pixels; their depth is runs of bytes, each filled up to whole steps of 64. How they are
// read (Reading) depends on the layer alone, not on the batch, so that the order of the sums does not either:
//
//   in_place  a 1x1 convolution of stride 1 whose channels fill the steps: one run, the pixel itself.
//   lines     the task's lines of the image are copied with their border; a run is a line of the window. Lines
//             that stand stride_h apart follow one another in the copy, so that windows lie at equal distances
//             from the first to the last, across the ends of lines, where they are computed for nothing.
//   gathered  each window is copied, one run: 7 cycles a step, where products take one a vector of columns.
//
// Packed weights: of each panel of up to four vectors of 16 output channels, pairs of vectors, of each
// [step][vector][16][64 bytes].
#pragma once

#include "cpu/amx.h"
#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"

namespace fastcnn::FASTCNN_ISA {

enum class Reading { in_place, lines, gathered };

template <class Problem>
struct AmxConvolution {
  const Problem& p;
  const int64_t size;  // bytes an element
  const Panels panels{p.K};
  const int64_t pixel = p.C * size;
  // In copied lines. Behind a run stand the next pixel's bytes: their weights are 0, but 0 times a bfloat16 may
  // be NaN, so those runs are filled up.
  const int64_t line_pixel = size == 1 || p.S * pixel % kTileBytes == 0 ? pixel : round_up(pixel, kTileBytes);
  const int64_t distance = line_pixel * p.stride_w;                        // of windows in a copied line
  const int64_t places = (p.Q - 1) + (p.S + p.stride_w - 1) / p.stride_w;  // for windows in it
  const int64_t line_bytes = places * distance;
  const Reading reading = choose();
  const int64_t runs = reading == Reading::lines ? p.R : 1;
  const int64_t run_steps =
      reading == Reading::lines ? tile_steps(p.S * line_pixel) : tile_steps(p.R * p.S * pixel);
  const int64_t steps = runs * run_steps;

  static int64_t round_up(int64_t a, int64_t to) { return (a + to - 1) / to * to; }

  Reading choose() const {
    if (p.R == 1 && p.S == 1) {
      const bool all = p.stride_h == 1 && p.stride_w == 1 && p.P == p.H && p.Q == p.W;
      return all && pixel % kTileBytes == 0 ? Reading::in_place : Reading::gathered;
    }
    if (p.dilation_w != 1) return Reading::gathered;
    // Cycles an output pixel: one for each step of each vector, and the copies.
    const int64_t windows = tile_steps(p.R * p.S * pixel), lines = p.R * tile_steps(p.S * line_pixel);
    const double copies = 7. * max_of(windows, p.R);
    return panels.vecs() * ((double)lines * places / p.Q - windows) < copies ? Reading::lines
                                                                             : Reading::gathered;
  }

  int64_t packed_bytes() const { return panels.vecs() * steps * 1024; }
  // Where vector `v` of a panel of `vecs` begins, in the panel, and how far apart its steps lie.
  int64_t vector_at(int v) const { return (v / 2 * 2 * steps + v % 2) * 1024; }
  static int64_t step_bytes(int v, int vecs) { return min_of(2, vecs - v / 2 * 2) * 1024; }
  const char* panel(const void* packed, int64_t i) const {
    return static_cast<const char*>(packed) + panels.first_vec(i) * steps * 1024;
  }

  // channel(panel, vector, lane): the output channel there, or -1. bits(k, tap, c): its weight's.
  template <class F, class G>
  void pack(void* packed, int threads, F&& channel, G&& bits) const {
    const int64_t together = 4 / size, wide = reading == Reading::lines ? line_pixel / size : p.C;
    const int64_t taps = reading == Reading::lines ? p.S : p.R * p.S;
    parallel_for(threads_for_bytes(threads, packed_bytes()), panels.count(), [&](int64_t i, int) {
      char* to = const_cast<char*>(panel(packed, i));
      for (int64_t step = 0; step < steps; ++step)
        for (int64_t line = 0; line < 16; ++line) {
          const int64_t first = (step % run_steps * 16 + line) * together;
          for (int v = 0; v < panels.vecs_of(i); ++v) {
            uint32_t words[16] = {};
            for (int64_t e = 0; e < together; ++e) {
              const int64_t tap = (first + e) / wide, c = (first + e) % wide;
              if (tap >= taps || c >= p.C) continue;
              for (int lane = 0; lane < 16; ++lane)
                if (const int64_t k = channel(i, v, lane); k >= 0)
                  words[lane] |= bits(k, step / run_steps * taps + tap, c) << 8 * size * e;
            }
            __builtin_memcpy(to + vector_at(v) + step * step_bytes(v, panels.vecs_of(i)) + line * 64, words,
                             64);
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
    const int64_t stride = p.x_stride * size, window = p.R * p.S * pixel, padded = steps * kTileBytes;
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

  // Lines of a copy for `lines` lines of output, and where line i of them stands.
  int64_t height(int64_t lines) const { return (lines - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1; }
  int64_t place_of(int64_t i, int64_t lines) const {
    return i % p.stride_h * ((height(lines) + p.stride_h - 1) / p.stride_h) + i / p.stride_h;
  }
  int64_t copy_bytes(int64_t lines) const {
    return round_up(height(lines), p.stride_h) * line_bytes + kTileBytes;  // a run's last step reads beyond
  }

  // What the windows of output lines [begin, begin + count) of image n see.
  void copy_lines(const char* x, int outside, int64_t n, int64_t begin, int64_t count, char* to) const {
    const int64_t stride = p.x_stride * size, pixels = line_bytes / line_pixel;
    const int64_t left = min_of(p.pad_w, pixels), within = min_of(p.W, pixels - left);
    for (int64_t i = 0; i < height(count); ++i) {
      const int64_t h = begin * p.stride_h - p.pad_h + i;
      char* line = to + place_of(i, count) * line_bytes;
      const char* from = x + (n * p.H + h) * p.W * stride;
      if (h < 0 || h >= p.H) {
        __builtin_memset(line, outside, line_bytes);
        continue;
      }
      __builtin_memset(line, outside, left * line_pixel);
      line += left * line_pixel;
      if (line_pixel == pixel && pixel == stride)
        copy(line, from, within * line_pixel);
      else
        for (int64_t w = 0; w < within; ++w) {
          copy(line + w * line_pixel, from + w * stride, pixel);
          __builtin_memset(line + w * line_pixel + pixel, 0, line_pixel - pixel);
        }
      __builtin_memset(line + within * line_pixel, outside, (pixels - left - within) * line_pixel);
    }
  }

  // finish(sums, row, rows, panel): sums of `rows` output pixels from `row` on by the columns of a panel, lines
  // of 64 elements of 4 bytes.
  template <bool kBytes, class F>
  void run(const void* x, int outside, const void* packed, int threads, F&& finish) const {
    constexpr int64_t kBlock = 128 << 10;  // bytes of rows a task works on: a share of L2
    const bool by_lines = reading == Reading::lines;
    // What tasks share: lines of output, of one image each, or output pixels.
    const int64_t images = by_lines ? p.N : 1, rows = by_lines ? p.P : p.N * p.P * p.Q;
    const int64_t pitch = by_lines                       ? distance
                          : reading == Reading::in_place ? p.x_stride * size
                                                         : steps * kTileBytes;
    const int64_t row_bytes = by_lines ? line_bytes * p.stride_h : pitch;
    const int64_t least = by_lines ? 1 : kBlockRows;
    // Waking a thread costs microseconds; each should have 5 us of work, at 2.6 cycles a nanosecond: products,
    // and half a cycle for each output.
    const double cycles = (double)p.N * p.P * p.Q * p.K * (steps / 16. + .5);
    const double useful = 1 + cycles / 13e3;
    if (useful < threads) threads = static_cast<int>(useful);
    // Threads share the panels where weights outweigh the input, so that each reads its own weights once.
    const int64_t fitting = max_of(least, kBlock / row_bytes / least * least);
    int64_t row_blocks = (rows + fitting - 1) / fitting, panel_blocks = 1;
    if (panels.count() >= threads && p.N * p.P * p.Q * pixel * p.stride_h * p.stride_w < packed_bytes())
      panel_blocks = threads;
    else if (rows >= threads * least)
      row_blocks = images % threads ? (row_blocks + threads - 1) / threads * threads : row_blocks;
    else
      panel_blocks = min_of<int64_t>(panels.count(), threads);
    const int64_t blocks = images * row_blocks;

    parallel_for(threads, blocks * panel_blocks, [&](int64_t task, int) {
      const int64_t image = task % blocks / row_blocks;
      const Range block = part_of(rows, row_blocks, task % row_blocks);
      const Range part = part_of(panels.count(), panel_blocks, task / blocks);
      const int64_t lines = block.end - block.begin;
      if (lines == 0) return;
      const int64_t copied = by_lines                       ? copy_bytes(lines)
                             : reading == Reading::gathered ? lines * row_bytes
                                                            : 0;
      const int64_t offsets_bytes = (runs * 8 + 63) / 64 * 64;
      char* memory = static_cast<char*>(scratch(Scratch::task, kBlockRows * 256 + offsets_bytes + copied));
      auto* offsets = reinterpret_cast<int64_t*>(memory + kBlockRows * 256);
      char* copies = memory + kBlockRows * 256 + offsets_bytes;
      const char* a = copies;
      for (int64_t r = 0; r < runs; ++r)
        offsets[r] = by_lines ? place_of(r * p.dilation_h, lines) * line_bytes : 0;
      if (by_lines)
        copy_lines(static_cast<const char*>(x), outside, image, block.begin, lines, copies);
      else if (reading == Reading::gathered)
        gather(static_cast<const char*>(x), outside, block.begin, lines, copies);
      else
        a = static_cast<const char*>(x) + block.begin * pitch;

      const int64_t count = by_lines ? (lines - 1) * places + p.Q : lines;
      int64_t shaped = 0;
      for (int64_t i = part.begin; i < part.end; ++i) {
        const char* weights = panel(packed, i);
        const char* next = i + 1 < part.end ? panel(packed, i + 1) : nullptr;
        for (int64_t row = 0; row < count; row += kBlockRows) {
          const int64_t here = min_of(kBlockRows, count - row);
          if (here != shaped) shape_tiles(shaped = here);
          multiply<kBytes>(here, panels.vecs_of(i), a + row * pitch, pitch, offsets, weights, memory,
                           row == 0 ? next : nullptr);
          if (!by_lines) {
            finish(memory, block.begin + row, here, i);
            continue;
          }
          for (int64_t done = 0; done < here;) {
            const int64_t q = (row + done) % places, more = min_of(here - done, places - q);
            const int64_t line = image * p.P + block.begin + (row + done) / places;
            if (q < p.Q) finish(memory + done * 256, line * p.Q + q, min_of(more, p.Q - q), i);
            done += more;
          }
        }
      }
      release_tiles();
    });
  }

 private:
  // All vectors of a panel, pair by pair.
  template <bool kBytes>
  void multiply(int64_t rows, int vecs, const char* a, int64_t pitch, const int64_t* offsets,
                const char* weights, char* sums, const char* next) const {
    for (int v = 0; v < vecs; v += 2, weights += 2 * steps * 1024, sums += 128) {
      const char* ahead = next ? next + vector_at(v) : nullptr;
      if (rows > kTileRows && v + 1 < vecs)
        multiply_tiles<kBytes, true, 2>(runs, run_steps, offsets, a, pitch, weights, sums, 256, ahead);
      else if (rows > kTileRows)
        multiply_tiles<kBytes, true, 1>(runs, run_steps, offsets, a, pitch, weights, sums, 256, ahead);
      else if (v + 1 < vecs)
        multiply_tiles<kBytes, false, 2>(runs, run_steps, offsets, a, pitch, weights, sums, 256, ahead);
      else
        multiply_tiles<kBytes, false, 1>(runs, run_steps, offsets, a, pitch, weights, sums, 256, ahead);
    }
  }
};

}  // namespace fastcnn::FASTCNN_ISA
