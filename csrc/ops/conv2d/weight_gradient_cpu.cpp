// The weight's gradient as an implicit GEMM: its depth is the output's pixels, its rows are output channels,
// its columns (s, c) for each tap row r.
//
// A task has a block of output channels, a slice of input channels and a part of the pixels. It copies runs
// of about kPixels output pixels and the patch of input under them into its own memory, which pads the image
// with zeros, widens 16-bit numbers and keeps rows from sharing few L1 sets; then a tile of kRows output
// channels by up to kVecs vectors of columns stays in registers over the run. A patch of one slice has the
// taps of a row side by side, so the columns of s and c are one run of memory.
//
// Where channels are few, the pixels are cut into parts with sums of their own, added in order at the end.
// Their number depends on the problem alone, never on the threads.
#include "ops/conv2d/weight_gradient_cpu.h"

#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "ops/conv2d/outer_products_cpu.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

constexpr int64_t kPixels = 128;  // of a run: sums leave the registers once a run
constexpr int64_t kBlock = 64;    // output channels of a task: what a packed patch is used for
constexpr int64_t kSlice = 64;    // input channels of a task
constexpr int64_t kTasks = 32;    // as many parts of the pixels as make up so many tasks
constexpr int64_t kGradPad = 16;  // after each row of packed dy

// The output pixels [p0, p1) x [q0, q1) of image n.
struct Run {
  int64_t n, p0, p1, q0, q1;
};

// How the output's pixels are cut into runs: lines of an image together, or pieces of one long line.
struct Runs {
  int64_t N, P, Q, lines, pieces, per_image;

  explicit Runs(const Conv2dProblem& p) : N(p.N), P(p.P), Q(p.Q) {
    pieces = (Q + kPixels - 1) / kPixels;
    lines = pieces > 1 ? 1 : min_of(P, max_of<int64_t>(1, kPixels / Q));
    per_image = (P + lines - 1) / lines * pieces;
  }
  int64_t count() const { return N * per_image; }
  Run at(int64_t i) const {
    const int64_t within = i % per_image, groups = per_image / pieces;
    const Range rows = part_of(P, groups, within / pieces), columns = part_of(Q, pieces, within % pieces);
    return {i / per_image, rows.begin, rows.end, columns.begin, columns.end};
  }
};

// Copies channels [c, c + count) of pixels [w, w + pixels) of a line, zeros outside the image.
template <class T>
void copy_line(const Conv2dProblem& p, const T* x, int64_t n, int64_t h, int64_t w, int64_t pixels, int64_t c,
               int64_t count, float* out) {
  const bool inside = h >= 0 && h < p.H;
  const int64_t begin = inside ? min_of(pixels, max_of<int64_t>(0, -w)) : pixels;
  const int64_t end = inside ? max_of(begin, min_of(pixels, p.W - w)) : pixels;
  for (int64_t i = 0; i < begin * count; ++i) out[i] = 0;
  const T* line = x + ((n * p.H + h) * p.W + w) * p.x_stride + c;
  if (p.x_stride == count) {
    if (begin < end) copy_run(line + begin * count, (end - begin) * count, out + begin * count);
  } else {
    for (int64_t i = begin; i < end; ++i) copy_run(line + i * p.x_stride, count, out + i * count);
  }
  for (int64_t i = end * count; i < pixels * count; ++i) out[i] = 0;
}

struct Task {
  Range k, c, runs;  // output channels, input channels of the group, runs of pixels
  int64_t group;
};

// The gradient of one task, as [r][k][columns of whole vectors], in this thread's memory.
template <class T>
const float* sum_runs(const Conv2dProblem& p, const Runs& all, const Task& task, const T* x, const T* dy) {
  const int64_t width = task.c.end - task.c.begin, block = task.k.end - task.k.begin;
  const Panels panels{p.S * width};
  const int64_t columns = panels.vecs() * kWidth, grad_stride = (block + 15) / 16 * 16 + kGradPad;
  const int64_t longest = (all.Q + all.pieces - 1) / all.pieces;
  const int64_t patch_pixels = (longest - 1) * p.stride_w + p.S;
  const int64_t patch_lines = (all.lines - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1;
  // Lines of a patch lie a cache line further apart than they are long.
  const int64_t line = (patch_pixels * width + 15) / 16 * 16 + 16;
  const int64_t sums_floats = p.R * block * columns, patch_floats = patch_lines * line + kVecs * kWidth;
  float* const sums = static_cast<float*>(scratch(
      Scratch::task, (sums_floats + patch_floats + all.lines * longest * grad_stride) * sizeof(float)));
  float* const patch = sums + sums_floats;
  float* const grad = patch + patch_floats;
  // A ragged vector of columns reads on behind the patch: into lanes that nobody looks at.
  __builtin_memset(patch, 0, patch_floats * sizeof(float));
  if (task.runs.begin == task.runs.end) __builtin_memset(sums, 0, sums_floats * sizeof(float));
  const int64_t rows = (block + kRows - 1) / kRows;
  for (int64_t i = task.runs.begin; i < task.runs.end; ++i) {
    const Run run = all.at(i);
    const int64_t pixels = run.q1 - run.q0, lines = run.p1 - run.p0;
    const int64_t needed = (lines - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1;
    for (int64_t l = 0; l < needed; ++l)
      copy_line(p, x, run.n, run.p0 * p.stride_h - p.pad_h + l, run.q0 * p.stride_w - p.pad_w,
                (pixels - 1) * p.stride_w + p.S, task.group * (p.C / p.groups) + task.c.begin, width,
                patch + l * line);
    float* to = grad;
    for (int64_t q = run.p0; q < run.p1; ++q) {
      const T* from = dy + ((run.n * p.P + q) * p.Q + run.q0) * p.y_stride + task.k.begin;
      for (int64_t w = 0; w < pixels; ++w, from += p.y_stride, to += grad_stride) copy_run(from, block, to);
    }
    for (int64_t r = 0; r < p.R; ++r)
      for (int64_t panel = 0; panel < panels.count(); ++panel)
        for (int64_t row = 0; row < rows; ++row) {
          const Range tile = part_of(block, rows, row);
          add_rows(static_cast<int>(tile.end - tile.begin), panels.vecs_of(panel), lines, pixels,
                   static_cast<const float*>(patch + r * p.dilation_h * line + panels.first_column(panel)),
                   p.stride_w * width, p.stride_h * line, static_cast<const float*>(grad + tile.begin),
                   grad_stride, sums + (r * block + tile.begin) * columns + panels.first_column(panel),
                   columns, i == task.runs.begin);
        }
  }
  return sums;
}

// A 1x1 kernel that leaves no pixel out sees one long line.
Conv2dProblem flattened(Conv2dProblem p) {
  if (p.R != 1 || p.S != 1 || p.stride_h != 1 || p.stride_w != 1 || p.P != p.H || p.Q != p.W) return p;
  p.Q = p.W = p.N * p.P * p.Q;
  p.N = p.P = p.H = 1;
  return p;
}

}  // namespace

void conv2d_weight_gradient(const Conv2dProblem& problem, const void* x, const void* dy, float* dw,
                            bool contiguous, int threads) {
  const Conv2dProblem p = flattened(problem);
  const int64_t channels = p.C / p.groups, filters = p.K / p.groups, taps = p.R * p.S;
  if (p.N * p.P * p.Q == 0) {
    __builtin_memset(dw, 0, p.K * taps * channels * sizeof(float));
    return;
  }
  advise_huge_pages(dw, p.K * taps * channels * sizeof(float));
  const Runs runs(p);
  const int64_t blocks = (filters + kBlock - 1) / kBlock, slices = (channels + kSlice - 1) / kSlice;
  const int64_t outputs = p.groups * blocks * slices;
  const int64_t parts = max_of<int64_t>(1, min_of(runs.count(), kTasks / outputs));
  const int64_t size = p.K * taps * channels;
  float* const partial =
      parts == 1 ? nullptr : static_cast<float*>(scratch(Scratch::call, parts * size * sizeof(float)));
  const double flops = 2.0 * p.N * p.P * p.Q * size;
  threads = flops < 1e6 * threads ? max_of(1, static_cast<int>(1 + flops / 1e6)) : threads;

  parallel_for(threads, outputs * parts, [&](int64_t i, int) {
    const int64_t output = i / parts, part = i % parts, group = output / (blocks * slices);
    Range k = part_of(filters, blocks, output / slices % blocks);
    const Range c = part_of(channels, slices, output % slices);
    k = {group * filters + k.begin, group * filters + k.end};
    const Task task{k, c, part_of(runs.count(), parts, part), group};
    const int64_t width = c.end - c.begin, columns = (p.S * width + kWidth - 1) / kWidth * kWidth;
    with_dtype(p.dtype, [&](auto type) {
      using T = decltype(type);
      const float* sums = sum_runs(p, runs, task, static_cast<const T*>(x), static_cast<const T*>(dy));
      for (int64_t r = 0; r < p.R; ++r)
        for (int64_t filter = k.begin; filter < k.end; ++filter, sums += columns) {
          float* to = (partial ? partial + part * size : dw) + filter * taps * channels;
          if (contiguous) {
            for (int64_t s = 0; s < p.S; ++s)
              for (int64_t d = 0; d < width; ++d)
                to[(c.begin + d) * taps + r * p.S + s] = sums[s * width + d];
          } else {
            for (int64_t s = 0; s < p.S; ++s)
              copy_run(sums + s * width, width, to + (r * p.S + s) * channels + c.begin);
          }
        }
    });
  });
  if (!partial) return;
  constexpr int64_t kElements = 4 << 10;
  parallel_for(threads_for_bytes(threads, parts * size * 4), (size + kElements - 1) / kElements,
               [&](int64_t i, int) {
                 const int64_t end = min_of(size, (i + 1) * kElements);
                 for (int64_t at = i * kElements; at < end; at += kWidth) {
                   const int count = static_cast<int>(min_of<int64_t>(kWidth, end - at));
                   Vec sum = load_partial(partial + at, count);
                   for (int64_t part = 1; part < parts; ++part)
                     sum += load_partial(partial + part * size + at, count);
                   store_partial(dw + at, sum, count);
                 }
               });
}

}  // namespace fastcnn::FASTCNN_ISA
