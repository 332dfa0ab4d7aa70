// Direct convolution as an implicit GEMM: any kernel size, stride, padding, dilation and number of groups.
//
// Rows of the GEMM are output pixels (n, p, q), its columns the output channels, its depth the taps (r, s)
// times the input channels of a group. fp32 input is read in place through one pointer per row and tap.
// Inputs in 16 bits are first gathered, a block of rows at a time, into fp32 rows [taps][C].
//
// For AVX512-BF16 this file is compiled once more: bfloat16 input is multiplied as it is, two channels an
// instruction, by weights rounded to bfloat16, with fp32 sums. An odd number of channels is gathered, a zero
// at the end of each row.
#include "cpu/gemm.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"
#include "ops/conv2d/kernels_cpu.h"
#include "ops/conv2d/shape_cpu.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

// Of a group's columns in packed memory.
int64_t padded_depth(const Conv2dProblem& p) {
  return (p.R * p.S * (p.C / p.groups) + kStep - 1) / kStep * kStep;
}

int64_t packed_bytes(const Conv2dProblem& p) {
  return p.groups * Panels{p.K / p.groups}.packed_floats(padded_depth(p)) * sizeof(Element);
}

// A vector of columns of one group: depth index d = (r * S + s) * C / groups + c goes to
// out[d / kStep * width * kStep].
void pack_vector(const Conv2dProblem& p, const float* weight, WeightForm form, int64_t group, int64_t vec,
                 Element* out, int64_t width) {
  const int64_t columns = p.K / p.groups, channels = p.C / p.groups, taps = p.R * p.S,
                depth = taps * channels;
  if constexpr (kStep == 1) {
    if (is_flipped(form)) {
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t c = 0; c < channels; ++c)
          store(out + (tap * channels + c) * width,
                flipped_lanes(p, weight, form, group, vec * kWidth, c, tap));
      return;
    }
    weight += group * columns * depth;
    if (form == WeightForm::channels_last)
      return each_depth(weight, depth, vec * kWidth, columns, 0, depth,
                        [&](int64_t d, Vec lanes) { store(out + d * width, lanes); });
    int64_t tap = 0, c = 0;
    each_depth(weight, depth, vec * kWidth, columns, 0, depth, [&](int64_t, Vec lanes) {
      store(out + (tap * channels + c) * width, lanes);
      if (++tap == taps) tap = 0, ++c;
    });
  } else {
    for (int64_t d = 0; d < depth; d += kStep)
      for (int half = 0; half < kStep; ++half) {
        float lane[kWidth];
        for (int l = 0; l < kWidth; ++l) {
          const int64_t column = vec * kWidth + (half * kWidth + l) / kStep, at = d + l % kStep;
          lane[l] =
              column < columns && at < depth
                  ? weight[weight_index(p, form, group * columns + column, at % channels, at / channels)]
                  : 0;
        }
        store(out + d * width + half * kWidth, load(lane));
      }
  }
}

// [group][panel][d / kStep][panel width][kStep]
void pack(const Conv2dProblem& p, const float* weight, WeightForm form, void* packed, int threads) {
  const Panels panels{p.K / p.groups};
  parallel_for(threads_for_bytes(threads, packed_bytes(p)), p.groups * panels.vecs(), [&](int64_t task, int) {
    const int64_t group = task / panels.vecs(), vec = task % panels.vecs(), panel = panels.of_vec(vec);
    const int64_t before = group * panels.vecs() + panels.first_vec(panel);
    Element* out = static_cast<Element*>(packed) + before * kWidth * padded_depth(p) +
                   (vec - panels.first_vec(panel)) * kWidth * kStep;
    pack_vector(p, weight, form, group, vec, out, panels.vecs_of(panel) * kWidth);
  });
}

struct Pixel {
  int64_t n, h, w;  // of the image, and of the window's first tap
};

Pixel pixel_of(const Conv2dProblem& p, int64_t row) {
  const int64_t q = row % p.Q, rest = row / p.Q;
  return {rest / p.P, rest % p.P * p.stride_h - p.pad_h, q * p.stride_w - p.pad_w};
}

// Calls f(tap, x's element index, or -1 outside the image) for each tap of an output pixel.
template <class F>
FASTCNN_INLINE void for_each_tap(const Conv2dProblem& p, const Pixel& pixel, F&& f) {
  int64_t tap = 0;
  for (int64_t r = 0; r < p.R; ++r) {
    const int64_t h = pixel.h + r * p.dilation_h;
    const bool inside = h >= 0 && h < p.H;
    const int64_t line = (pixel.n * p.H + h) * p.W;
    for (int64_t s = 0; s < p.S; ++s, ++tap) {
      const int64_t w = pixel.w + s * p.dilation_w;
      f(tap, inside && w >= 0 && w < p.W ? (line + w) * p.x_stride : -1);
    }
  }
}

#if defined(__AVX512BF16__)
void copy(const BFloat16* x, int64_t count, BFloat16* out) {
  for (int64_t i = 0; i < count; i += 32) {
    const __mmask32 lanes = count - i < 32 ? (1u << (count - i)) - 1 : ~0u;
    _mm512_mask_storeu_epi16(out + i, lanes, _mm512_maskz_loadu_epi16(lanes, x + i));
  }
}
#else
template <class T>
void copy(const T* x, int64_t count, float* out) {
  copy_run(x, count, out);
}
#endif

void clear(Element* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = Element{};
}

// Rows begin..end-1 as [row][taps][C], `pitch` elements apart.
template <class T>
void gather(const Conv2dProblem& p, const T* x, Range rows, int64_t pitch, Element* out) {
  const bool lines = p.dilation_w == 1 && p.x_stride == p.C;  // the taps of a line lie side by side
  for (int64_t row = rows.begin; row < rows.end; ++row, out += pitch) {
    const Pixel pixel = pixel_of(p, row);
    if (lines) {
      const int64_t begin = min_of(p.S, max_of<int64_t>(0, -pixel.w));
      const int64_t end = max_of(begin, min_of(p.S, p.W - pixel.w));
      for (int64_t r = 0; r < p.R; ++r) {
        const int64_t h = pixel.h + r * p.dilation_h;
        Element* line = out + r * p.S * p.C;
        if (h < 0 || h >= p.H || begin == end) {
          clear(line, p.S * p.C);
          continue;
        }
        clear(line, begin * p.C);
        copy(x + ((pixel.n * p.H + h) * p.W + pixel.w + begin) * p.C, (end - begin) * p.C,
             line + begin * p.C);
        clear(line + end * p.C, (p.S - end) * p.C);
      }
    } else {
      for_each_tap(p, pixel, [&](int64_t tap, int64_t index) {
        if (index < 0)
          clear(out + tap * p.C, p.C);
        else
          copy(x + index, p.C, out + tap * p.C);
      });
    }
    clear(out + p.R * p.S * p.C, pitch - p.R * p.S * p.C);
  }
}

// Where rows are few, a task packs a panel of weights for all of them, and multiplies while it is in L2.
bool takes_unpacked(const Conv2dProblem& p) { return p.N * p.P * p.Q <= 96; }

void run(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
  const int64_t rows = p.N * p.P * p.Q, channels = p.C / p.groups, taps = p.R * p.S;
  const Panels panels{p.K / p.groups};
  threads = threads_for_conv(p, threads);

  const bool gathered = p.dtype != kElement || channels % kStep;
  // Gathered rows lie end to end, so that without groups all taps are one run.
  const bool merged = gathered && p.groups == 1;
  const int64_t kernel_taps = merged ? 1 : taps, depth = merged ? padded_depth(p) : channels;
  const int64_t pitch = (taps * p.C + kStep - 1) / kStep * kStep;  // of gathered rows

  // A block's input should stay in L2 while all weights pass by. Where it is read in place, windows overlap.
  const int64_t row_floats = p.C * (gathered ? taps : min_of(taps, p.stride_h * p.stride_w));
  const int64_t all_panels = p.groups * panels.count();
  const bool packed = at.form == WeightForm::packed;
  const BlockPlan plan = packed ? plan_blocks(rows, row_floats * sizeof(Element), all_panels, threads)
                                : BlockPlan{1, min_of<int64_t>(all_panels, 2 * threads)};

  const Element* zeros = nullptr;
  if (!gathered) {
    zeros = static_cast<Element*>(scratch(Scratch::call, p.C * sizeof(Element)));
    __builtin_memset(const_cast<Element*>(zeros), 0, p.C * sizeof(Element));
  }
  const Output out{p.dtype, p.activation, at.bias, at.residual, p.residual_stride, at.y, p.y_stride};

  // One task is a block of rows by a range of panels, over all groups.
  parallel_for(threads, plan.row_blocks * plan.panel_blocks, [&](int64_t task, int) {
    const Range block = part_of(rows, plan.row_blocks, task / plan.panel_blocks);
    const Range part = part_of(all_panels, plan.panel_blocks, task % plan.panel_blocks);
    const int64_t count = block.end - block.begin, groups_of_rows = (count + kRows - 1) / kRows;

    // pointers[row group][tap][row]
    const int64_t table_bytes = (groups_of_rows * kernel_taps * kRows * 8 + 63) / 64 * 64;
    char* memory = static_cast<char*>(
        scratch(Scratch::task, table_bytes + (gathered ? count * pitch * sizeof(Element) : 0)));
    const Element** pointers = reinterpret_cast<const Element**>(memory);
    Element* copies = reinterpret_cast<Element*>(memory + table_bytes);
    const int64_t panel_elements = kVecs * kWidth * padded_depth(p);
    Element* own =
        packed ? nullptr : static_cast<Element*>(scratch(Scratch::weights, panel_elements * sizeof(Element)));
    if (gathered) {
      if constexpr (kStep == 2)
        gather(p, static_cast<const Element*>(at.x), block, pitch, copies);
      else
        with_dtype(p.dtype, [&](auto type) {
          gather(p, static_cast<const decltype(type)*>(at.x), block, pitch, copies);
        });
    }
    for (int64_t g = 0; g < groups_of_rows; ++g) {
      const Range group = part_of(count, groups_of_rows, g);
      const Element** table = pointers + g * kernel_taps * kRows;
      for (int64_t i = 0; i < group.end - group.begin; ++i) {
        const int64_t row = group.begin + i;
        if (gathered)
          for (int64_t t = 0; t < kernel_taps; ++t) table[t * kRows + i] = copies + row * pitch + t * p.C;
        else
          for_each_tap(p, pixel_of(p, block.begin + row), [&](int64_t tap, int64_t index) {
            table[tap * kRows + i] = index < 0 ? zeros : static_cast<const Element*>(at.x) + index;
          });
      }
    }

    for (int64_t i = part.begin; i < part.end; ++i) {
      const int64_t g = i / panels.count(), panel = i % panels.count();
      const int64_t before = g * panels.vecs() + panels.first_vec(panel), vecs = panels.vecs_of(panel);
      const Element* weights = static_cast<const Element*>(at.weight) + before * kWidth * padded_depth(p);
      if (!packed) {
        for (int64_t vec = 0; vec < vecs; ++vec)
          pack_vector(p, static_cast<const float*>(at.weight), at.form, g, panels.first_vec(panel) + vec,
                      own + vec * kWidth * kStep, vecs * kWidth);
        weights = own;
      }
      const int64_t column = g * panels.columns + panels.first_column(panel);
      for (int64_t j = 0; j < groups_of_rows; ++j) {
        const Range group = part_of(count, groups_of_rows, j);
        gemm_rows(static_cast<int>(group.end - group.begin), panels.vecs_of(panel), kernel_taps, depth,
                  pointers + j * kernel_taps * kRows, g * channels, weights, panels.columns_of(panel),
                  out.at(block.begin + group.begin, column));
      }
    }
  });
}

#if !defined(__AVX512BF16__)
// Pixels w0..w0+pixels-1 of line h of image n, zeros outside the image, as fp32 [pixel][C].
template <class T>
void stage_line(const Conv2dProblem& p, const T* x, int64_t n, int64_t h, int64_t w0, int64_t pixels,
                float* out) {
  const bool inside = h >= 0 && h < p.H;
  const int64_t begin = inside ? min_of(pixels, max_of<int64_t>(0, -w0)) : pixels;
  const int64_t end = inside ? max_of(begin, min_of(pixels, p.W - w0)) : pixels;
  for (int64_t i = 0; i < begin * p.C; ++i) out[i] = 0;
  if (begin < end) {
    const T* line = x + ((n * p.H + h) * p.W + w0) * p.x_stride;
    if (p.x_stride == p.C) {
      copy_run(line + begin * p.C, (end - begin) * p.C, out + begin * p.C);
    } else {
      for (int64_t i = begin; i < end; ++i) copy_run(line + i * p.x_stride, p.C, out + i * p.C);
    }
  }
  for (int64_t i = end * p.C; i < pixels * p.C; ++i) out[i] = 0;
}

void run_staged(const Conv2dProblem& p, const Conv2dPointers& at, int threads) {
  const Panels panels{p.K};
  threads = threads_for_conv(p, threads);
  const int64_t pixels = (p.Q - 1) * p.stride_w + p.S, line_floats = pixels * p.C + 16, depth = p.S * p.C;

  // Blocks of about 96 pixels: enough to use a weight well, few enough that the lines stay in L2.
  const int64_t lines = min_of(p.P, (96 + p.Q - 1) / p.Q), blocks_per_image = (p.P + lines - 1) / lines;
  const int64_t blocks = p.N * blocks_per_image;
  const int64_t panel_blocks = min_of(panels.count(), (2 * threads + blocks - 1) / blocks);
  const Output out{p.dtype, p.activation, at.bias, at.residual, p.residual_stride, at.y, p.y_stride};

  parallel_for(threads, blocks * panel_blocks, [&](int64_t task, int) {
    const int64_t block = task / panel_blocks, n = block / blocks_per_image;
    const Range part = part_of(panels.count(), panel_blocks, task % panel_blocks);
    const Range range = part_of(p.P, blocks_per_image, block % blocks_per_image);
    const int64_t count = (range.end - range.begin) * p.Q, groups_of_rows = (count + kRows - 1) / kRows;
    const int64_t input_lines = (range.end - range.begin - 1) * p.stride_h + (p.R - 1) * p.dilation_h + 1;

    const int64_t table_bytes = (groups_of_rows * p.R * kRows * 8 + 63) / 64 * 64;
    char* memory = static_cast<char*>(scratch(Scratch::task, table_bytes + input_lines * line_floats * 4));
    const float** pointers = reinterpret_cast<const float**>(memory);
    float* staged = reinterpret_cast<float*>(memory + table_bytes);
    with_dtype(p.dtype, [&](auto type) {
      for (int64_t i = 0; i < input_lines; ++i)
        stage_line(p, static_cast<const decltype(type)*>(at.x), n, range.begin * p.stride_h - p.pad_h + i,
                   -p.pad_w, pixels, staged + i * line_floats);
    });
    for (int64_t g = 0; g < groups_of_rows; ++g) {
      const Range group = part_of(count, groups_of_rows, g);
      for (int64_t i = 0; i < group.end - group.begin; ++i) {
        const int64_t row = group.begin + i;
        const float* first = staged + row / p.Q * p.stride_h * line_floats + row % p.Q * p.stride_w * p.C;
        for (int64_t r = 0; r < p.R; ++r)
          pointers[(g * p.R + r) * kRows + i] = first + r * p.dilation_h * line_floats;
      }
    }
    for (int64_t panel = part.begin; panel < part.end; ++panel)
      for (int64_t g = 0; g < groups_of_rows; ++g) {
        const Range group = part_of(count, groups_of_rows, g);
        gemm_rows(static_cast<int>(group.end - group.begin), panels.vecs_of(panel), p.R, depth,
                  pointers + g * p.R * kRows, 0,
                  static_cast<const float*>(at.weight) + panels.first_vec(panel) * kWidth * p.R * depth,
                  panels.columns_of(panel),
                  out.at((n * p.P + range.begin) * p.Q + group.begin, panels.first_column(panel)));
      }
  });
}
#endif

}  // namespace

extern const Conv2dKernel direct_conv2d{packed_bytes, pack, run, takes_unpacked};
#if !defined(__AVX512BF16__)
extern const Conv2dKernel staged_conv2d{packed_bytes, pack, run_staged, nullptr};
#endif

}  // namespace fastcnn::FASTCNN_ISA
