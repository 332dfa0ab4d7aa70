#include "cuda/launch.h"
#include "cuda/numeric.h"
#include "cuda/pixel_grid.h"
#include "ops/concat/copy_slice_cuda.h"

namespace fastcnn::cuda {

namespace {

struct CopyParams {
  const void* x;
  void* y;
  int64_t pixels, words, x_stride, y_stride;  // in words
};

// Word: what one thread copies; 16 bytes where everything is aligned, one element otherwise.
template <class Word>
__global__ void __launch_bounds__(256) copy_slice_kernel(const __grid_constant__ CopyParams p) {
  const int64_t pixel = pixel_index();
  const int64_t word = group_index();
  if (pixel >= p.pixels || word >= p.words) return;
  const Word* from = static_cast<const Word*>(p.x) + pixel * p.x_stride + word;
  Word* to = static_cast<Word*>(p.y) + pixel * p.y_stride + word;
  if constexpr (sizeof(Word) == 16)
    store_16(to, load_16(from));
  else
    *to = *from;
}

template <class Word>
Status copy_words(const CopySliceProblem& problem, const void* x, void* y, void* stream) {
  auto words = [&](int64_t elements) {
    return elements * problem.element_size / static_cast<int64_t>(sizeof(Word));
  };
  const CopyParams params{
      x, y, problem.pixels, words(problem.C), words(problem.x_stride), words(problem.y_stride)};
  const PixelGrid cut = pixel_grid(params.pixels, params.words);
  return launch("copy_slice", copy_slice_kernel<Word>, cut.grid, cut.block, 0, stream, params);
}

}  // namespace

Status copy_slice(const CopySliceProblem& problem, const void* x, void* y, void* stream) {
  if (problem.pixels == 0 || problem.C == 0) return Status();
  if (vectorises(problem.element_size, {x, y}, {problem.C, problem.x_stride, problem.y_stride}))
    return copy_words<uint4>(problem, x, y, stream);
  switch (problem.element_size) {
    case 1:
      return copy_words<uint8_t>(problem, x, y, stream);
    case 2:
      return copy_words<uint16_t>(problem, x, y, stream);
    case 4:
      return copy_words<uint32_t>(problem, x, y, stream);
    case 8:
      return copy_words<uint64_t>(problem, x, y, stream);
  }
  return make_status(StatusCode::unsupported,
                     "copy_slice: elements of %lld bytes; 1, 2, 4 and 8 are supported",
                     static_cast<long long>(problem.element_size));
}

}  // namespace fastcnn::cuda
