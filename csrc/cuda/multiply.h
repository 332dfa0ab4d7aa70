// A warp's products on the tensor cores, in the precision asked for.
#pragma once

#include "cuda/ptx.h"

namespace fastcnn::cuda {

template <class T>
constexpr MmaType kMmaType = sizeof(T) == 4         ? MmaType::tf32
                             : __is_same(T, __half) ? MmaType::float16
                                                    : MmaType::bfloat16;

// The least number that rounds to infinity in tf32: half a unit of tf32 above its largest.
constexpr float kTf32Overflow = 0x1.ffep127f;

// sum += a b for kTilesM x kTilesN tiles of 16 x 8, 32 bytes deep. load(a, b) reads the fragments as mma.sync
// takes them, those of two neighbouring tiles of b beside each other; it is called again where infinities
// need them. kStrict: float32 as three products of tf32.
template <class T, bool kStrict, int kTilesM, int kTilesN, class Load>
__device__ __forceinline__ void multiply_fragments(float (&sum)[kTilesM][kTilesN][4], Load&& load) {
  constexpr MmaType kType = kMmaType<T>;
  static_assert(!kStrict || sizeof(T) == 4);
  uint32_t a[kTilesM][4], b[kTilesN / 2][4];
  load(a, b);
  if constexpr (!kStrict) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < kTilesM; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) a[i][e] = round_to_tf32(__uint_as_float(a[i][e]));
#pragma unroll
      for (int j = 0; j < kTilesN / 2; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) b[j][e] = round_to_tf32(__uint_as_float(b[j][e]));
    }
#pragma unroll
    for (int i = 0; i < kTilesM; i++)
#pragma unroll
      for (int j = 0; j < kTilesN; j++)
        mma<kType>(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
  } else {
    // a = a_big + a_small, both tf32; what a_small b_small would add is below float32's rounding.
    uint32_t a_small[kTilesM][4], b_small[kTilesN / 2][4];
    auto split_fragments = [&](auto split) {
#pragma unroll
      for (int i = 0; i < kTilesM; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) split(a[i][e], a_small[i][e]);
#pragma unroll
      for (int j = 0; j < kTilesN / 2; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) split(b[j][e], b_small[j][e]);
    };
    bool special = false;
    split_fragments([&](uint32_t& big, uint32_t& small) {
      const float value = __uint_as_float(big);
      special |= !(fabsf(value) < kTf32Overflow);
      big = round_to_tf32(value);
      small = round_to_tf32(value - __uint_as_float(big));
    });
    if (any_lane(special)) {
      // Infinity minus infinity is NaN, and so is 0 times infinity: an infinite or NaN element takes part
      // in one plain product, of which only what is not finite counts, and is zero in the three below.
      load(a, b);
#pragma unroll
      for (int i = 0; i < kTilesM; i++)
#pragma unroll
        for (int j = 0; j < kTilesN; j++) {
          float product[4] = {};
          mma<kType>(product, a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
#pragma unroll
          for (int r = 0; r < 4; r++)
            if (!(fabsf(product[r]) < INFINITY)) sum[i][j][r] += product[r];
        }
      split_fragments([](uint32_t& big, uint32_t& small) {
        float value = __uint_as_float(big);
        if (!(fabsf(value) < INFINITY)) value = 0.0f;
        // The largest numbers would round to infinity; cut off, they leave a remainder like any other.
        big = fabsf(value) < kTf32Overflow ? round_to_tf32(value) : __float_as_uint(value) & 0xffffe000;
        small = round_to_tf32(value - __uint_as_float(big));
      });
    }
#pragma unroll
    for (int i = 0; i < kTilesM; i++)
#pragma unroll
      for (int j = 0; j < kTilesN; j++) {
        const int e = j % 2 * 2;
        // Into a sum of its own, added in float32: the tensor core cuts off what it adds to, and over a
        // long sum that would cost several bits.
        float product[4] = {};
        mma<kType>(product, a_small[i], b[j / 2][e], b[j / 2][e + 1]);
        mma<kType>(product, a[i], b_small[j / 2][e], b_small[j / 2][e + 1]);
        mma<kType>(product, a[i], b[j / 2][e], b[j / 2][e + 1]);
#pragma unroll
        for (int r = 0; r < 4; r++) sum[i][j][r] += product[r];
      }
  }
}

}  // namespace fastcnn::cuda
