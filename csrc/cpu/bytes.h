// Vectors of bytes: how u8 activations enter and leave the kWidth lanes of a register.
//
// pack_words .. low_words work within each 16 bytes of a register, as x86's instructions do: what a
// convolution sums in vectors 0 .. NV - 1 becomes bytes in order by the two packings and one permutation
// (ops/conv2d_int8).
#pragma once

#include "cpu/simd.h"

namespace fastcnn::FASTCNN_ISA {

typedef uint8_t ByteVec __attribute__((vector_size(kWidth)));
typedef ByteVec UnalignedByteVec __attribute__((aligned(1), may_alias));
typedef IntVec UnalignedIntVec __attribute__((aligned(1), may_alias));

FASTCNN_INLINE IntVec broadcast_int(int32_t a) { return a - IntVec{}; }
FASTCNN_INLINE Vec to_float(IntVec a) { return __builtin_convertvector(a, Vec); }

// To the nearest integer, ties to even; |a| < 2^31, on processors other than x86 |a| counts as at most 2^22.
FASTCNN_INLINE IntVec to_nearest(Vec a) {
#if FASTCNN_SIMD_BYTES == 64
  return (IntVec)_mm512_maskz_cvtps_epi32(0xffff, (__m512)a);  // GCC 12 warns of its own unmasked one
#elif FASTCNN_SIMD_BYTES == 32
  return (IntVec)_mm256_cvtps_epi32((__m256)a);
#elif defined(__SSE2__)
  return (IntVec)_mm_cvtps_epi32((__m128)a);
#else
  // Added to 1.5 * 2^23, a float's last place is 1.
  a = min(broadcast(0x1p22f), max(broadcast(-0x1p22f), a));
  return as_int(a + 0x1.8p23f) - 0x4b400000;
#endif
}

// kWidth bytes as numbers from 0 to 255, and back; numbers outside are clamped.
FASTCNN_INLINE IntVec load_bytes(const uint8_t* p) {
  return __builtin_convertvector(*(const UnalignedByteVec*)p, IntVec);
}
FASTCNN_INLINE IntVec clamp(IntVec a, int32_t low, int32_t high) {
  const IntVec at_least = a < low ? broadcast_int(low) : a;
  return at_least > high ? broadcast_int(high) : at_least;
}
FASTCNN_INLINE void store_bytes(uint8_t* p, IntVec a) {
  *(UnalignedByteVec*)p = __builtin_convertvector(clamp(a, 0, 255), ByteVec);
}
FASTCNN_INLINE IntVec load_bytes_partial(const uint8_t* p, int count) {
  ByteVec a = {};
  __builtin_memcpy(&a, p, count);
  return __builtin_convertvector(a, IntVec);
}
FASTCNN_INLINE void store_bytes_partial(uint8_t* p, IntVec a, int count) {
  const ByteVec bytes = __builtin_convertvector(clamp(a, 0, 255), ByteVec);
  __builtin_memcpy(p, &bytes, count);
}

FASTCNN_INLINE IntVec load_ints(const void* p) { return *(const UnalignedIntVec*)p; }
FASTCNN_INLINE void store_ints(void* p, IntVec a) { *(UnalignedIntVec*)p = a; }

#if defined(__x86_64__)
#if FASTCNN_SIMD_BYTES == 64
#define FASTCNN_X86(name, a, b) (IntVec) _mm512_##name((__m512i)(a), (__m512i)(b))
#elif FASTCNN_SIMD_BYTES == 32
#define FASTCNN_X86(name, a, b) (IntVec) _mm256_##name((__m256i)(a), (__m256i)(b))
#else
#define FASTCNN_X86(name, a, b) (IntVec) _mm_##name((__m128i)(a), (__m128i)(b))
#endif
// Numbers to signed words, saturating: those of a, then those of b.
FASTCNN_INLINE IntVec pack_words(IntVec a, IntVec b) { return FASTCNN_X86(packs_epi32, a, b); }
// Signed words to u8, saturating.
FASTCNN_INLINE IntVec pack_bytes(IntVec a, IntVec b) { return FASTCNN_X86(packus_epi16, a, b); }
FASTCNN_INLINE IntVec add_words(IntVec a, IntVec b) { return FASTCNN_X86(adds_epi16, a, b); }
FASTCNN_INLINE IntVec max_bytes(IntVec a, IntVec b) { return FASTCNN_X86(max_epu8, a, b); }
FASTCNN_INLINE IntVec min_bytes(IntVec a, IntVec b) { return FASTCNN_X86(min_epu8, a, b); }
// The first or second half of the bytes as words, of the words as numbers.
FASTCNN_INLINE IntVec low_bytes(IntVec a) { return FASTCNN_X86(unpacklo_epi8, a, IntVec{}); }
FASTCNN_INLINE IntVec high_bytes(IntVec a) { return FASTCNN_X86(unpackhi_epi8, a, IntVec{}); }
FASTCNN_INLINE IntVec low_words(IntVec a) { return FASTCNN_X86(unpacklo_epi16, a, IntVec{}); }
FASTCNN_INLINE IntVec high_words(IntVec a) { return FASTCNN_X86(unpackhi_epi16, a, IntVec{}); }
// Lane i: the products of words 2 i and 2 i + 1 of a and b, added; saturates nothing (255 * 127 * 2 < 2^31).
FASTCNN_INLINE IntVec multiply_pairs(IntVec a, IntVec b) { return FASTCNN_X86(madd_epi16, a, b); }
#undef FASTCNN_X86
#else
typedef int16_t WordVec __attribute__((vector_size(FASTCNN_SIMD_BYTES)));
typedef uint8_t ByteLanes __attribute__((vector_size(FASTCNN_SIMD_BYTES)));

FASTCNN_INLINE IntVec pack_words(IntVec a, IntVec b) {
  a = clamp(a, -32768, 32767), b = clamp(b, -32768, 32767);
  WordVec words;
  for (int i = 0; i < kWidth; ++i) words[i] = (int16_t)a[i], words[kWidth + i] = (int16_t)b[i];
  return (IntVec)words;
}
FASTCNN_INLINE IntVec pack_bytes(IntVec a, IntVec b) {
  const WordVec x = (WordVec)a, y = (WordVec)b;
  ByteLanes bytes;
  for (int i = 0; i < 2 * kWidth; ++i) {
    bytes[i] = (uint8_t)(x[i] < 0 ? 0 : x[i] > 255 ? 255 : x[i]);
    bytes[2 * kWidth + i] = (uint8_t)(y[i] < 0 ? 0 : y[i] > 255 ? 255 : y[i]);
  }
  return (IntVec)bytes;
}
FASTCNN_INLINE IntVec add_words(IntVec a, IntVec b) {  // b holds 0 to 255
  const WordVec x = (WordVec)a, sum = x + (WordVec)b;
  return (IntVec)(sum < x ? WordVec{} + (int16_t)32767 : sum);
}
FASTCNN_INLINE IntVec max_bytes(IntVec a, IntVec b) {
  const ByteLanes x = (ByteLanes)a, y = (ByteLanes)b;
  return (IntVec)(x > y ? x : y);
}
FASTCNN_INLINE IntVec min_bytes(IntVec a, IntVec b) {
  const ByteLanes x = (ByteLanes)a, y = (ByteLanes)b;
  return (IntVec)(x < y ? x : y);
}
FASTCNN_INLINE IntVec bytes_from(IntVec a, int first) {
  const ByteLanes bytes = (ByteLanes)a;
  WordVec words;
  for (int i = 0; i < 2 * kWidth; ++i) words[i] = bytes[first + i];
  return (IntVec)words;
}
FASTCNN_INLINE IntVec words_from(IntVec a, int first) {
  const WordVec words = (WordVec)a;
  IntVec ints;
  for (int i = 0; i < kWidth; ++i) ints[i] = (uint16_t)words[first + i];
  return ints;
}
FASTCNN_INLINE IntVec low_bytes(IntVec a) { return bytes_from(a, 0); }
FASTCNN_INLINE IntVec high_bytes(IntVec a) { return bytes_from(a, 2 * kWidth); }
FASTCNN_INLINE IntVec low_words(IntVec a) { return words_from(a, 0); }
FASTCNN_INLINE IntVec high_words(IntVec a) { return words_from(a, kWidth); }
FASTCNN_INLINE IntVec multiply_pairs(IntVec a, IntVec b) {
  return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
}
#endif

}  // namespace fastcnn::FASTCNN_ISA
