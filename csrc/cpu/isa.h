// Which instruction set the CPU kernels use.
//
// Every source in FASTCNN_ISA_SOURCES (cpu.cmake) is compiled once per instruction set, each time inside its
// own namespace, named by the macro FASTCNN_ISA: fastcnn::baseline, fastcnn::avx2, fastcnn::avx512. A
// kernel's header declares it in all of them, and its callers pick the one that this processor runs:
//
//   FASTCNN_FOR_EACH_ISA(void lrn(const LrnProblem& problem, const void* x, void* y, int threads))
//   FASTCNN_SELECT(lrn)(problem, x, y, threads);
//
// AVX512-BF16 has a namespace too, fastcnn::avx512_bf16, of FASTCNN_BF16_SOURCES alone: their callers ask
// has_bf16_dot(). So has AVX512-VNNI: fastcnn::avx512_vnni, FASTCNN_VNNI_SOURCES, has_vnni(). AMX, too:
// fastcnn::amx, every ops/*/*_amx.cpp, isa() == Isa::amx; all else of Isa::amx is that of AVX-512.
//
// Such a source includes no header that defines inline functions or templates outside that namespace (so no
// <algorithm>, <vector>, <cmath>): the linker keeps one copy of each, which may be the AVX-512 one, and then
// the program dies on a processor without it.
#pragma once

namespace fastcnn {

enum class Isa { baseline, avx2, avx512, amx };

// The chosen one: the best that this processor has, or what FASTCNN_CPU_ISA or set_isa() demanded.
Isa isa();
const char* isa_name(Isa isa);
int simd_floats(Isa isa);        // floats in a vector: kWidth of its namespace
bool has_bf16_dot();             // isa() is avx512 or above, and this processor has AVX512-BF16 too
bool has_vnni();                 // isa() is avx512 or above, and this processor has AVX512-VNNI too
bool isa_available(Isa isa);     // compiled in, this processor has it, and the system lets us use it
void set_isa(const char* name);  // throws std::invalid_argument, in one sentence, if unknown or unavailable

}  // namespace fastcnn

#if defined(__x86_64__)
#define FASTCNN_FOR_EACH_ISA(...) \
  namespace fastcnn::baseline {   \
  __VA_ARGS__;                    \
  }                               \
  namespace fastcnn::avx2 {       \
  __VA_ARGS__;                    \
  }                               \
  namespace fastcnn::avx512 {     \
  __VA_ARGS__;                    \
  }
#define FASTCNN_SELECT(name)                                            \
  (::fastcnn::isa() >= ::fastcnn::Isa::avx512 ? ::fastcnn::avx512::name \
   : ::fastcnn::isa() == ::fastcnn::Isa::avx2 ? ::fastcnn::avx2::name   \
                                              : ::fastcnn::baseline::name)
#else
#define FASTCNN_FOR_EACH_ISA(...) \
  namespace fastcnn::baseline {   \
  __VA_ARGS__;                    \
  }
#define FASTCNN_SELECT(name) (::fastcnn::baseline::name)
#endif
