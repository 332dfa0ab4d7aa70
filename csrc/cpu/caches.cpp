#include "cpu/caches.h"

#include <unistd.h>

namespace fastcnn {

const Caches& caches() {
  static const Caches sizes = [] {
    Caches found{32 << 10, 1 << 20, 32 << 20};  // where the system does not say
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    auto ask = [](int name, int64_t& size) {
      if (const long bytes = sysconf(name); bytes > 0) size = bytes;
    };
    ask(_SC_LEVEL1_DCACHE_SIZE, found.l1);
    ask(_SC_LEVEL2_CACHE_SIZE, found.l2);
    ask(_SC_LEVEL3_CACHE_SIZE, found.l3);
#endif
    return found;
  }();
  return sizes;
}

}  // namespace fastcnn
