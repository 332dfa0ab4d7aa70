// Prints a line for each expectation that does not hold.
#include <string>

#include "cuda/device.cu"
#include "cuda/tensor_map.cu"

using namespace fastcnn;
using namespace fastcnn::cuda;

struct Params {
  int x;
};
void kernel(Params) {}

#define EXPECT(condition) \
  if (!(condition)) printf("line %d: %s\n", __LINE__, #condition)

Status start(size_t shared_bytes) {
  return launch("a kernel", kernel, dim3(), dim3(), shared_bytes, nullptr, Params{1});
}

int main() {
  for (size_t shared_bytes : {size_t{0}, size_t{64} << 10}) {  // the launch fails; the attribute fails
    fake::next = cudaErrorInvalidValue;
    const Status failed = start(shared_bytes);
    EXPECT(failed.code == StatusCode::device_error);
    EXPECT(std::string(failed.message) == "a kernel: as asked for");
    EXPECT(fake::launches == 0);
    EXPECT(fake::kept == cudaSuccess);
  }
  fake::kept = cudaErrorInvalidValue;  // somebody else's: not to be taken for the launch's own
  EXPECT(start(0).ok());
  EXPECT(fake::launches == 1);
  fake::kept = cudaSuccess;

  TensorMapRequest request = {DType::float32, 2, &request, {16, 16}, {64}, {16, 16}, {1, 1}, 128, false};
  TensorMap map;
  fake::next = cudaErrorSymbolNotFound;
  EXPECT(encode_tensor_map(request, &map).code == StatusCode::unsupported);
  EXPECT(fake::kept == cudaSuccess);
  EXPECT(encode_tensor_map(request, &map).ok());  // the driver is there now
  EXPECT(map.type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32);
  request.rounds_to_tf32 = true;
  EXPECT(encode_tensor_map(request, &map).ok());
  EXPECT(map.type == CU_TENSOR_MAP_DATA_TYPE_TFLOAT32);
  request.dtype = DType::float16;
  EXPECT(encode_tensor_map(request, &map).ok());
  EXPECT(map.type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16);

  const int before = fake::encoded;
  for (int round = 0; round < 3; round++)
    for (uint64_t width : {16, 24}) {  // two tensors in turns: each is encoded once
      request.size[1] = width;
      EXPECT(encode_tensor_map(request, &map).ok());
    }
  EXPECT(fake::encoded == before + 1);  // one of the two was known
  request.base = &map;
  EXPECT(encode_tensor_map(request, &map).ok());
  EXPECT(fake::encoded == before + 2);

  int count = 5;
  fake::next = cudaErrorInvalidValue;
  EXPECT(!device_count(&count).ok());
  EXPECT(count == 0);
  fake::next = cudaErrorInvalidValue;
  Device device;
  EXPECT(!query_device(0, &device).ok());
  fake::next = cudaErrorInvalidValue;
  EXPECT(!current_multiprocessors(&count).ok());
  EXPECT(fake::kept == cudaSuccess);
}
