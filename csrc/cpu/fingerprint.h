// What a block of memory holds, in 64 bits: packed weights are trusted as long as their source has the
// fingerprint that it had.
//
// Up to kFingerprintWhole bytes are all read. Of a larger block it is kFingerprintLines cache lines of 64
// bytes, spread by the golden ratio: a change that touches none of them is not seen. A line costs .15 us
// where the block is in no cache, most of it for the page's address; all of ResNet-50's weights would take 10
// ms.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace fastcnn {
constexpr int64_t kFingerprintWhole = 16 << 10;
constexpr int64_t kFingerprintLines = 8;
}  // namespace fastcnn

// The same for every instruction set. prefetch_fingerprint has the processor fetch what fingerprint will
// read.
FASTCNN_FOR_EACH_ISA(uint64_t fingerprint(const void* begin, int64_t bytes);
                     void prefetch_fingerprint(const void* begin, int64_t bytes))
