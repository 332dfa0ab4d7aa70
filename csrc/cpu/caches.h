// Sizes of this processor's data caches in bytes, as the operating system reports them.
#pragma once

#include <cstdint>

namespace fastcnn {

struct Caches {
  int64_t l1, l2, l3;
};
const Caches& caches();

}  // namespace fastcnn
