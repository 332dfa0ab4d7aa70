#include "cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastcnn {
namespace {

constexpr Isa kBestFirst[] = {Isa::amx, Isa::avx512, Isa::avx2, Isa::baseline};

Isa parse(const std::string& name, const std::string& source) {
  std::string available;
  for (Isa isa : kBestFirst) {
    if (!isa_available(isa)) continue;
    if (name == isa_name(isa)) return isa;
    available += (available.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw std::invalid_argument(source + ": instruction set '" + name + "' is unknown or not available here; " +
                              "this processor has " + available);
}

Isa initial() {
  if (const char* forced = std::getenv("FASTCNN_CPU_ISA"); forced && *forced)
    return parse(forced, "FASTCNN_CPU_ISA");
  for (Isa isa : kBestFirst)
    if (isa_available(isa)) return isa;
  return Isa::baseline;
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa{initial()};
  return isa;
}

#if defined(__x86_64__)
// clang knows the name "f16c" for __builtin_cpu_supports() since 19 only.
bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

// Linux gives a process AMX's registers, 8 KB a thread to be kept at each switch, when it asks for them.
bool may_use_amx() {
#if defined(__linux__)
  constexpr unsigned kTile = 1 << 24, kBytes = 1 << 25, kBFloat16 = 1 << 22;
  constexpr unsigned kWanted = kTile | kBytes | kBFloat16;
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & kWanted) == kWanted &&
         syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}
#endif

}  // namespace

Isa isa() { return current().load(std::memory_order_relaxed); }

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::amx:
      return "amx";
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    case Isa::baseline:
      return "baseline";
  }
  return "?";
}

int simd_floats(Isa isa) { return isa >= Isa::avx512 ? 16 : isa == Isa::avx2 ? 8 : 4; }

bool has_bf16_dot() {
#if defined(__x86_64__)
  return isa() >= Isa::avx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

bool has_vnni() {
#if defined(__x86_64__)
  return isa() >= Isa::avx512 && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

bool isa_available(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::amx) {
    static const bool may = may_use_amx();
    return may && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
           isa_available(Isa::avx512);
  }
  if (isa == Isa::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           isa_available(Isa::avx2);
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
  return isa == Isa::baseline;
}

void set_isa(const char* name) { current().store(parse(name, "set_isa"), std::memory_order_relaxed); }

}  // namespace fastcnn
