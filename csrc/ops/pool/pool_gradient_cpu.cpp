// Gradients in gather form: every element of dx is written once, from the windows that contain it, in their
// order.
#include "ops/pool/pool_gradient_cpu.h"

#include "cpu/rows.h"
#include "ops/pool/pool_window.h"

namespace fastcnn::FASTCNN_ISA {
namespace {

typedef uint8_t ByteVec __attribute__((vector_size(FASTCNN_SIMD_BYTES / 4)));
typedef ByteVec UnalignedByteVec __attribute__((aligned(1), may_alias));

// GCC 12 widens and narrows bytes lane by lane unless told the instruction: five times the time of the
// kernel.
FASTCNN_INLINE IntVec widen_bytes(ByteVec bytes) {
#if FASTCNN_SIMD_BYTES == 64
  return (IntVec)_mm512_cvtepu8_epi32((__m128i)bytes);
#elif FASTCNN_SIMD_BYTES == 32
  return (IntVec)_mm256_cvtepu8_epi32(_mm_set1_epi64x((int64_t)bytes));
#else
  return __builtin_convertvector(bytes, IntVec);
#endif
}
FASTCNN_INLINE ByteVec narrow_bytes(IntVec a) {
#if FASTCNN_SIMD_BYTES == 64
  return (ByteVec)_mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)a);
#else
  return __builtin_convertvector(a, ByteVec);
#endif
}

FASTCNN_INLINE IntVec load_bytes(const uint8_t* p, int count) {
  if (count == kWidth) return widen_bytes(*(const UnalignedByteVec*)p);
  ByteVec bytes = {};
  __builtin_memcpy(&bytes, p, count);
  return widen_bytes(bytes);
}
FASTCNN_INLINE void store_bytes(uint8_t* p, IntVec a, int count) {
  const ByteVec bytes = narrow_bytes(a);
  if (count == kWidth)
    *(UnalignedByteVec*)p = bytes;
  else
    __builtin_memcpy(p, &bytes, count);
}

template <class T>
void max_row(const Pool2dProblem& p, const T* image, T* y, uint8_t* taps, int64_t row) {
  const int64_t h0 = row * p.stride_h - p.pad_h;
  const Taps r = taps_inside(h0, p.kernel_h, p.dilation_h, p.H);
  for (int64_t q = 0; q < p.Q; ++q, y += p.y_stride, taps += p.C) {
    const int64_t w0 = q * p.stride_w - p.pad_w;
    const Taps s = taps_inside(w0, p.kernel_w, p.dilation_w, p.W);
    for (int64_t c = 0; c < p.C; c += kWidth) {
      const int count = (int)min_of<int64_t>(kWidth, p.C - c);
      Vec best = broadcast(-__builtin_inff());
      IntVec where = (int32_t)(r.begin * p.kernel_w + s.begin) - IntVec{};
      for (int64_t i = r.begin; i < r.end; ++i) {
        const T* line = image + ((h0 + i * p.dilation_h) * p.W + w0) * p.x_stride + c;
        for (int64_t j = s.begin; j < s.end; ++j) {
          const Vec value = load_lanes(line + j * p.dilation_w * p.x_stride, count);
          const IntVec wins = (value > best) | is_nan(value);
          best = select(wins, value, best);
          where = wins ? (int32_t)(i * p.kernel_w + j) - IntVec{} : where;
        }
      }
      if (count == kWidth)
        store(y + c, best);
      else
        store_partial(y + c, best, count);
      store_bytes(taps + c, where, count);
    }
  }
}

// An output whose window contains a given position of one axis, and the tap that it has there.
struct Cover {
  int64_t output, tap;
};

// Writes all of them in order and returns how many there are: at most `kernel`.
FASTCNN_INLINE int64_t covers_of(int64_t at, int64_t pad, int64_t kernel, int64_t stride, int64_t dilation,
                                 int64_t outputs, Cover* covers) {
  const int64_t reach = at + pad - (kernel - 1) * dilation;
  int64_t count = 0;
  for (int64_t i = reach <= 0 ? 0 : (reach + stride - 1) / stride; i < outputs && i * stride <= at + pad;
       ++i) {
    const int64_t offset = at + pad - i * stride;
    if (dilation == 1)
      covers[count++] = {i, offset};
    else if (offset % dilation == 0)
      covers[count++] = {i, offset / dilation};
  }
  return count;
}

// What an output adds to a position: its gradient where its maximum was the tap, or `scale` times its
// gradient.
struct Source {
  int64_t output;
  int32_t tap;
  float scale;
};

FASTCNN_INLINE float reciprocal_divisor(const Pool2dProblem& p, int64_t row, int64_t column) {
  if (p.divisor_override) return 1.0f / (float)p.divisor_override;
  int64_t h0 = row * p.stride_h - p.pad_h, w0 = column * p.stride_w - p.pad_w;
  int64_t h1 = min_of(h0 + p.kernel_h, p.H + p.pad_h), w1 = min_of(w0 + p.kernel_w, p.W + p.pad_w);
  if (!p.count_include_pad) {
    h0 = max_of<int64_t>(h0, 0), w0 = max_of<int64_t>(w0, 0);
    h1 = min_of(h1, p.H), w1 = min_of(w1, p.W);
  }
  return 1.0f / (float)((h1 - h0) * (w1 - w0));
}

template <PoolMode kMode, class T>
void gradient_row(const Pool2dProblem& p, const uint8_t* taps, const T* dy, T* dx, int64_t h,
                  Source* sources) {
  Cover* const rows = (Cover*)(sources + p.kernel_h * p.kernel_w);
  Cover* const columns = rows + p.kernel_h;
  const int64_t row_count = covers_of(h, p.pad_h, p.kernel_h, p.stride_h, p.dilation_h, p.P, rows);
  for (int64_t w = 0; w < p.W; ++w, dx += p.C) {
    const int64_t column_count = covers_of(w, p.pad_w, p.kernel_w, p.stride_w, p.dilation_w, p.Q, columns);
    int64_t count = 0;
    for (int64_t i = 0; i < row_count; ++i)
      for (int64_t j = 0; j < column_count; ++j)
        sources[count++] = {
            rows[i].output * p.Q + columns[j].output, (int32_t)(rows[i].tap * p.kernel_w + columns[j].tap),
            kMode == PoolMode::max ? 1.0f : reciprocal_divisor(p, rows[i].output, columns[j].output)};
    write_run(dx, p.C, false, [&](int64_t c, int lanes) {
      Vec sum = zero();
      for (int64_t i = 0; i < count; ++i) {
        const Source& from = sources[i];
        const Vec grad = load_lanes(dy + from.output * p.y_stride + c, lanes);
        if (kMode == PoolMode::max)
          sum += select(load_bytes(taps + from.output * p.C + c, lanes) == from.tap, grad, zero());
        else
          sum = fma(grad, broadcast(from.scale), sum);
      }
      return sum;
    });
  }
}

}  // namespace

void max_pool2d_taps(const Pool2dProblem& problem, const void* x, void* y, uint8_t* taps, int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t input = problem.N * problem.H * problem.W * problem.C * sizeof(T);
    prepare_output(y, problem.N * problem.P * problem.Q * problem.y_stride * sizeof(T));
    parallel_for(threads_for_bytes(threads, 2 * input), problem.N * problem.P, [&](int64_t task, int) {
      const int64_t n = task / problem.P;
      max_row(problem, (const T*)x + n * problem.H * problem.W * problem.x_stride,
              (T*)y + task * problem.Q * problem.y_stride, taps + task * problem.Q * problem.C,
              task % problem.P);
    });
  });
}

void pool2d_gradient(const Pool2dProblem& problem, const uint8_t* taps, const void* dy, void* dx,
                     int threads) {
  with_dtype(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t bytes = problem.N * problem.H * problem.W * problem.C * sizeof(T);
    prepare_output(dx, bytes);
    parallel_for(threads_for_bytes(threads, 2 * bytes), problem.N * problem.H, [&](int64_t task, int) {
      const int64_t outputs = task / problem.H * problem.P * problem.Q;
      T* const row = (T*)dx + task * problem.W * problem.C;
      const T* const from = (const T*)dy + outputs * problem.y_stride;
      const int64_t windows = problem.kernel_h * problem.kernel_w;
      Source* const sources = (Source*)scratch(
          Scratch::task, windows * sizeof(Source) + (problem.kernel_h + problem.kernel_w) * sizeof(Cover));
      if (problem.mode == PoolMode::max)
        gradient_row<PoolMode::max>(problem, taps + outputs * problem.C, from, row, task % problem.H,
                                    sources);
      else
        gradient_row<PoolMode::average>(problem, nullptr, from, row, task % problem.H, sources);
    });
  });
}

void adaptive_avg_pool2d_gradient(const AdaptiveAvgPool2dProblem& problem, const void* dy, void* dx,
                                  int threads) {
  const auto& p = problem;
  with_dtype(p.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t bytes = p.N * p.H * p.W * p.C * sizeof(T);
    prepare_output(dx, bytes);
    parallel_for(threads_for_bytes(threads, 2 * bytes), p.N * p.H, [&](int64_t task, int) {
      const int64_t n = task / p.H, h = task % p.H;
      T* to = (T*)dx + task * p.W * p.C;
      // Output i's window is [i H / P, ceil((i + 1) H / P)).
      for (int64_t w = 0; w < p.W; ++w, to += p.C)
        write_run(to, p.C, false, [&](int64_t c, int count) {
          Vec sum = zero();
          for (int64_t i = h * p.P / p.H; i < p.P && i * p.H / p.P <= h; ++i) {
            const int64_t height = ((i + 1) * p.H + p.P - 1) / p.P - i * p.H / p.P;
            for (int64_t j = w * p.Q / p.W; j < p.Q && j * p.W / p.Q <= w; ++j) {
              const int64_t size = height * (((j + 1) * p.W + p.Q - 1) / p.Q - j * p.W / p.Q);
              const T* from = (const T*)dy + ((n * p.P + i) * p.Q + j) * p.y_stride + c;
              sum += load_lanes(from, count) / (float)size;
            }
          }
          return sum;
        });
    });
  });
}

}  // namespace fastcnn::FASTCNN_ISA
