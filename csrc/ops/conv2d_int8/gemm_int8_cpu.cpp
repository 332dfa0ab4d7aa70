// Convolution of bytes as an implicit GEMM: any kernel size, stride, padding, dilation and number of groups.
//
// A tile is up to 6 output pixels by up to kVecs vectors of output channels, in registers from the bias to
// the bytes. Its rows are read through one pointer a row and run of bytes: a tap's channels, where they are
// whole fours; a line of the kernel window, from lines copied with a border, where channels are few; else a
// whole window, gathered.
//
// An instruction takes four bytes of a row (vnni), or two widened to 16 bits (pairs). Packed weights, of each
// panel of vectors: [depth / 4][vector][lane][4] bytes for vnni, [depth / 4][vector][2][lane][2] words for
// pairs (bytes 0 and 2 of the four, then 1 and 3); then the biases and the multipliers, one a lane, in the
// order of channels that finish_int8_cpu.h explains.
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "ops/conv2d_int8/finish_int8_cpu.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

using Problem = Int8Conv2dProblem;

#if defined(__AVX512VNNI__)
constexpr int64_t kStepBytes = 4;  // packed, a lane and four depths
#else
constexpr int64_t kStepBytes = 8;
#endif

FASTCNN_INLINE int64_t fours(int64_t bytes) { return (bytes + 3) / 4 * 4; }

// ---- The tile
// ------------------------------------------------------------------------------------------------

// rows[t][i]: where the bytes of run t of row i begin; `depth` of them, a multiple of four, from `offset` on.
// next: weights to be wanted soon, one line a step. acc stays in registers as long as every loop over it is
// unrolled.
template <int MR, int NV>
static __attribute__((noinline)) void tile(int64_t runs, int64_t depth, const uint8_t* const* rows,
                                           int64_t offset, const char* weight, int columns,
                                           const Int8Output& out, const char* next) {
  const char* constants = weight + runs * depth / 4 * NV * kWidth * kStepBytes;
  IntVec acc[MR][NV];
  FASTCNN_UNROLL for (int j = 0; j < NV; ++j) {
    const IntVec bias = load_ints(constants + j * kWidth * 4);
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) acc[i][j] = bias;
  }
  for (int64_t t = 0; t < runs; ++t, rows += kRows) {
    const uint8_t* x[MR];
    FASTCNN_UNROLL for (int i = 0; i < MR; ++i) x[i] = rows[i] + offset;
#pragma GCC unroll 1
    for (int64_t d = 0; d < depth; d += 4, weight += NV * kWidth * kStepBytes, next += 64) {
      __builtin_prefetch(next, 0, 2);
#if defined(__AVX512VNNI__)
      IntVec w[NV];
      FASTCNN_UNROLL for (int j = 0; j < NV; ++j) w[j] = load_ints(weight + j * kWidth * 4);
#endif
      FASTCNN_UNROLL for (int i = 0; i < MR; ++i) {
        int32_t four;
        __builtin_memcpy(&four, x[i] + d, 4);
        const IntVec bytes = broadcast_int(four);
#if defined(__AVX512VNNI__)
        // In assembly, because GCC 12 copies and spills the accumulators of the intrinsic: half the speed.
        FASTCNN_UNROLL for (int j = 0; j < NV;
                            ++j) asm("vpdpbusd %2, %1, %0" : "+v"(acc[i][j]) : "v"(bytes), "v"(w[j]));
#else
        const IntVec even = bytes & 0x00ff00ff, odd = (IntVec)((UintVec)bytes >> 8) & 0x00ff00ff;
        FASTCNN_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] +=
            multiply_pairs(even, load_ints(weight + (2 * j) * kWidth * 4));
        FASTCNN_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] +=
            multiply_pairs(odd, load_ints(weight + (2 * j + 1) * kWidth * 4));
#endif
      }
    }
  }
  constants += NV * kWidth * 4;
  if (out.problem->float_output)
    finish_floats(acc, constants, columns, out);
  else
    finish_bytes(acc, constants, columns, out);
}

template <int MR = kRows>
void tile_of(int rows, int vecs, int64_t runs, int64_t depth, const uint8_t* const* a, int64_t offset,
             const char* weight, int columns, const Int8Output& out, const char* next) {
  if constexpr (MR > 1)
    if (rows < MR) return tile_of<MR - 1>(rows, vecs, runs, depth, a, offset, weight, columns, out, next);
  if (vecs == 1) return tile<MR, 1>(runs, depth, a, offset, weight, columns, out, next);
  if constexpr (kVecs > 2) {
    if (vecs == 3) return tile<MR, 3>(runs, depth, a, offset, weight, columns, out, next);
    if (vecs == 4) return tile<MR, 4>(runs, depth, a, offset, weight, columns, out, next);
  }
  tile<MR, 2>(runs, depth, a, offset, weight, columns, out, next);
}

// ---- How rows are read
// -----------------------------------------------------------------------------------------

enum class Reading { in_place, lines, gathered };

struct Shape {
  Reading reading;
  int64_t channels, runs, depth;  // of a group; runs of `depth` bytes a row
  Panels panels;                  // of a group

  int64_t panel_bytes(int64_t vecs) const { return vecs * kWidth * (runs * depth / 4 * kStepBytes + 8); }
  int64_t before(int64_t group, int64_t panel) const {
    return panel_bytes(group * panels.vecs() + panels.first_vec(panel));
  }
};

Shape shape_of(const Problem& p) {
  const int64_t channels = p.C / p.groups;
  const Panels panels{p.K / p.groups};
  // A run should be long: where it is a tap of few channels, fetching its pointers costs more than its
  // products.
  const bool few = channels % 4 || (channels <= 16 && p.R * p.S > 1);
  if (few && p.groups == 1 && p.dilation_w == 1)
    return {Reading::lines, channels, p.R, fours(p.S * p.C), panels};
  if (channels % 4) return {Reading::gathered, channels, 1, fours(p.R * p.S * channels), panels};
  return {Reading::in_place, channels, p.R * p.S, channels, panels};
}

int64_t packed_bytes(const Problem& p) {
  const Shape shape = shape_of(p);
  return shape.panel_bytes(p.groups * shape.panels.vecs());
}

// The weight at depth d of run t, 0 where there is none.
FASTCNN_INLINE int8_t weight_at(const Problem& p, const Shape& shape, const int8_t* weight, int64_t t,
                                int64_t d) {
  int64_t c = d, tap = t;
  if (shape.reading != Reading::in_place) c = d % shape.channels, tap = d / shape.channels;
  if (shape.reading == Reading::lines) {
    if (tap >= p.S) return 0;
    tap += t * p.S;
  }
  return tap < p.R * p.S ? weight[c * p.R * p.S + tap] : 0;
}

template <int NV>
void pack_panel(const Problem& p, const Shape& shape, const int8_t* weight, const int32_t* bias,
                const float* multiplier, int columns, char* packed) {
  const int64_t filter = shape.channels * p.R * p.S;
  for (int64_t t = 0; t < shape.runs; ++t)
    for (int64_t d = 0; d < shape.depth; d += 4)
      for (int j = 0; j < NV; ++j, packed += kWidth * kStepBytes)
        for (int lane = 0; lane < kWidth; ++lane)
          for (int b = 0; b < 4; ++b) {
            const int k = channel_of<NV>(j, lane);
            const int8_t w = k < columns ? weight_at(p, shape, weight + k * filter, t, d + b) : 0;
            if (kStepBytes == 4)
              packed[4 * lane + b] = (char)w;
            else
              ((int16_t*)packed)[(b % 2 * kWidth + lane) * 2 + b / 2] = w;
          }
  for (int j = 0; j < NV; ++j)
    for (int lane = 0; lane < kWidth; ++lane) {
      const int k = channel_of<NV>(j, lane);
      ((int32_t*)packed)[j * kWidth + lane] = k < columns ? bias[k] : 0;
      ((float*)packed)[(NV + j) * kWidth + lane] = k < columns ? multiplier[k] : 0;
    }
}

void pack(const Problem& p, const int8_t* weight, const int32_t* bias, const float* multiplier,
          void* packed) {
  const Shape shape = shape_of(p);
  const int64_t filter = shape.channels * p.R * p.S;
  for (int64_t g = 0; g < p.groups; ++g)
    for (int64_t i = 0; i < shape.panels.count(); ++i) {
      const int64_t k = g * shape.panels.columns + shape.panels.first_column(i);
      auto* to = static_cast<char*>(packed) + shape.before(g, i);
      const int columns = shape.panels.columns_of(i);
      switch (shape.panels.vecs_of(i)) {
        case 1:
          pack_panel<1>(p, shape, weight + k * filter, bias + k, multiplier + k, columns, to);
          break;
        case 2:
          pack_panel<2>(p, shape, weight + k * filter, bias + k, multiplier + k, columns, to);
          break;
        case 3:
          pack_panel<3>(p, shape, weight + k * filter, bias + k, multiplier + k, columns, to);
          break;
        default:
          pack_panel<4>(p, shape, weight + k * filter, bias + k, multiplier + k, columns, to);
      }
    }
}

struct Pixel {
  int64_t n, h, w;  // of the image, and of the window's first tap
};

FASTCNN_INLINE Pixel pixel_of(const Problem& p, int64_t row) {
  const int64_t q = row % p.Q, rest = row / p.Q;
  return {rest / p.P, rest % p.P * p.stride_h - p.pad_h, q * p.stride_w - p.pad_w};
}

// Row i of a table's pointers to the taps of a pixel; `outside` where there is none.
FASTCNN_INLINE void point_at_taps(const Problem& p, const uint8_t* x, const Pixel& at, const uint8_t* outside,
                                  const uint8_t** table) {
  const uint8_t* first = x + ((at.n * p.H + at.h) * p.W + at.w) * p.x_stride;
  const int64_t line = p.dilation_h * p.W * p.x_stride, step = p.dilation_w * p.x_stride;
  if (at.h >= 0 && at.w >= 0 && at.h + (p.R - 1) * p.dilation_h < p.H &&
      at.w + (p.S - 1) * p.dilation_w < p.W) {
    for (int64_t r = 0; r < p.R; ++r, first += line)
      for (int64_t s = 0; s < p.S; ++s, table += kRows) *table = first + s * step;
    return;
  }
  for (int64_t r = 0; r < p.R; ++r, first += line) {
    const int64_t h = at.h + r * p.dilation_h;
    for (int64_t s = 0; s < p.S; ++s, table += kRows) {
      const int64_t w = at.w + s * p.dilation_w;
      *table = h >= 0 && h < p.H && w >= 0 && w < p.W ? first + s * step : outside;
    }
  }
}

FASTCNN_INLINE void copy(uint8_t* to, const uint8_t* from, int64_t bytes) {
  for (; bytes >= 16; bytes -= 16, to += 16, from += 16) __builtin_memcpy(to, from, 16);
  for (int64_t i = 0; i < bytes; ++i) to[i] = from[i];
}

// Windows of rows [begin, end) one after the other: [row][group][tap][channel], a group's padded to fours.
void gather(const Problem& p, const Shape& shape, const uint8_t* x, const Range& rows, uint8_t* out) {
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const Pixel at = pixel_of(p, row);
    for (int64_t g = 0; g < p.groups; ++g, out += shape.depth)
      for (int64_t r = 0; r < p.R; ++r)
        for (int64_t s = 0; s < p.S; ++s) {
          const int64_t h = at.h + r * p.dilation_h, w = at.w + s * p.dilation_w;
          uint8_t* to = out + (r * p.S + s) * shape.channels;
          if (h >= 0 && h < p.H && w >= 0 && w < p.W)
            copy(to, x + ((at.n * p.H + h) * p.W + w) * p.x_stride + g * shape.channels, shape.channels);
          else
            __builtin_memset(to, p.x_zero, shape.channels);
        }
  }
}

// Pixels from w = -pad_w on of line h, as far as windows reach.
void copy_line(const Problem& p, const uint8_t* x, int64_t n, int64_t h, int64_t pixels, uint8_t* out) {
  if (h < 0 || h >= p.H) {
    __builtin_memset(out, p.x_zero, pixels * p.C);
    return;
  }
  const int64_t left = min_of(p.pad_w, pixels), inside = min_of(p.W, pixels - left);
  const uint8_t* line = x + (n * p.H + h) * p.W * p.x_stride;
  __builtin_memset(out, p.x_zero, left * p.C);
  out += left * p.C;
  if (p.x_stride == p.C) {
    copy(out, line, inside * p.C);
  } else {
    for (int64_t w = 0; w < inside; ++w) copy(out + w * p.C, line + w * p.x_stride, p.C);
  }
  __builtin_memset(out + inside * p.C, p.x_zero, (pixels - left - inside) * p.C);
}

// ---- The layer
// -------------------------------------------------------------------------------------------------

struct Blocks {
  int64_t rows, panels;
};

// Threads share the panels where weights outweigh the input, so that each reads its own weights once; else
// the rows, in blocks whose input stays in the cache while the panels pass by.
Blocks blocks_of(const Problem& p, const Shape& shape, int threads) {
  constexpr int64_t kBlockBytes = 64 << 10;
  const int64_t rows = p.N * p.P * p.Q, panels = p.groups * shape.panels.count();
  const int64_t row_bytes = p.C * min_of(p.R * p.S, p.stride_h * p.stride_w);
  const int64_t fitting = max_of<int64_t>(4 * kRows, kBlockBytes / row_bytes / kRows * kRows);
  const int64_t row_blocks = (rows + fitting - 1) / fitting;
  if (panels >= threads && rows * row_bytes < shape.panel_bytes(p.groups * shape.panels.vecs()))
    return {row_blocks, threads};
  if (rows < threads * kRows) return {1, min_of<int64_t>(panels, threads)};
  return {(row_blocks + threads - 1) / threads * threads, 1};
}

struct Layer {
  const Problem& p;
  const Shape shape;
  const char* weight;
  Int8Output out;

  // Panels `part` of the rows whose pointers the table holds: [group of rows][run][row].
  void multiply(const uint8_t* const* table, int64_t first_row, int64_t count, const Range& part) const {
    const int64_t groups = (count + kRows - 1) / kRows, steps = shape.runs * shape.depth / 4;
    const Panels& panels = shape.panels;
    for (int64_t i = part.begin; i < part.end; ++i) {
      const int64_t g = i / panels.count(), panel = i % panels.count(), column = g * panels.columns;
      const int64_t following = i + 1 < part.end ? i + 1 : part.begin;
      const char* next = weight + shape.before(following / panels.count(), following % panels.count());
      // In place each group reads its channels of every tap; a gathered window holds them in a run of its
      // own.
      const int64_t offset = g * (shape.reading == Reading::gathered ? shape.depth : shape.channels);
      for (int64_t j = 0; j < groups; ++j) {
        const Range rows = part_of(count, groups, j);
        tile_of(static_cast<int>(rows.end - rows.begin), panels.vecs_of(panel), shape.runs, shape.depth,
                table + j * shape.runs * kRows, offset, weight + shape.before(g, panel),
                panels.columns_of(panel), out.at(first_row + rows.begin, column + panels.first_column(panel)),
                next + (j < kStepBytes / 4 * kVecs ? j : 0) * steps * 64);
      }
    }
  }

  // Fills the table, point(row, where its pointers go), and multiplies.
  template <class F>
  void rows(const uint8_t** table, int64_t first_row, int64_t count, const Range& part, F&& point) const {
    const int64_t groups = (count + kRows - 1) / kRows;
    for (int64_t j = 0; j < groups; ++j) {
      const Range rows = part_of(count, groups, j);
      for (int64_t row = rows.begin; row < rows.end; ++row)
        point(row, table + j * shape.runs * kRows + (row - rows.begin));
    }
    multiply(table, first_row, count, part);
  }

  int64_t table_bytes(int64_t rows) const {
    return ((rows + kRows - 1) / kRows * shape.runs * kRows * 8 + 63) / 64 * 64;
  }
};

void run_lines(const Layer& layer, const uint8_t* x, int threads) {
  const Problem& p = layer.p;
  // Blocks of about 192 pixels: enough to use a weight well, few enough that the lines stay in L1.
  const int64_t lines = min_of(p.P, (192 + p.Q - 1) / p.Q), blocks = (p.P + lines - 1) / lines;
  const int64_t pixels = (p.Q - 1) * p.stride_w + p.S, pitch = pixels * p.C + 4;
  parallel_for(threads, p.N * blocks, [&](int64_t task, int) {
    const int64_t n = task / blocks;
    const Range range = part_of(p.P, blocks, task % blocks);
    const int64_t count = (range.end - range.begin) * p.Q;
    const int64_t height = (range.end - range.begin - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1;
    const int64_t table_bytes = layer.table_bytes(count);
    char* memory = static_cast<char*>(scratch(Scratch::task, table_bytes + height * pitch));
    auto* copies = reinterpret_cast<uint8_t*>(memory) + table_bytes;
    for (int64_t i = 0; i < height; ++i) {
      copy_line(p, x, n, range.begin * p.stride_h - p.pad_h + i, pixels, copies + i * pitch);
      __builtin_memset(copies + i * pitch + pixels * p.C, 0, 4);
    }
    layer.rows(reinterpret_cast<const uint8_t**>(memory), (n * p.P + range.begin) * p.Q, count,
               {0, layer.shape.panels.count()}, [&](int64_t row, const uint8_t** table) {
                 const uint8_t* first =
                     copies + row / p.Q * p.stride_h * pitch + row % p.Q * p.stride_w * p.C;
                 for (int64_t r = 0; r < p.R; ++r) table[r * kRows] = first + r * p.dilation_h * pitch;
               });
  });
}

void run(const Problem& p, const uint8_t* x, const void* packed, const uint8_t* residual, void* y,
         int threads) {
  const Layer layer{
      p, shape_of(p), static_cast<const char*>(packed), {&p, p.has_residual ? residual : nullptr, y}};
  const Shape& shape = layer.shape;
  const int64_t rows = p.N * p.P * p.Q;
  if (rows == 0) return;
  // Waking a thread costs microseconds; each should have 5 us of work at 1000 GOP/s.
  const double useful = 1 + 2e-6 / 5 * rows * p.K * shape.runs * shape.depth;
  if (useful < threads) threads = static_cast<int>(useful);
  if (shape.reading == Reading::lines) return run_lines(layer, x, threads);

  const Blocks blocks = blocks_of(p, shape, threads);
  const bool gathered = shape.reading == Reading::gathered;
  const int64_t pitch = p.groups * shape.depth;
  uint8_t* outside = nullptr;
  if (!gathered) {
    outside = static_cast<uint8_t*>(scratch(Scratch::call, p.C));
    __builtin_memset(outside, p.x_zero, p.C);
  }
  parallel_for(threads, blocks.rows * blocks.panels, [&](int64_t task, int) {
    const Range block = part_of(rows, blocks.rows, task % blocks.rows);
    const Range part = part_of(p.groups * shape.panels.count(), blocks.panels, task / blocks.rows);
    const int64_t count = block.end - block.begin, table_bytes = layer.table_bytes(count);
    char* memory = static_cast<char*>(scratch(Scratch::task, table_bytes + (gathered ? count * pitch : 0)));
    auto* copies = reinterpret_cast<uint8_t*>(memory) + table_bytes;
    if (gathered) gather(p, shape, x, block, copies);
    layer.rows(reinterpret_cast<const uint8_t**>(memory), block.begin, count, part,
               [&](int64_t row, const uint8_t** table) {
                 if (gathered)
                   *table = copies + row * pitch;
                 else
                   point_at_taps(p, x, pixel_of(p, block.begin + row), outside, table);
               });
  });
}

}  // namespace

extern const Int8Conv2dKernel int8_conv2d{packed_bytes, pack, run};

}  // namespace fastcnn::FASTCNN_ISA
