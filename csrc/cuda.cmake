# CUDA kernels, where nvcc is found and FASTCNN_CUDA does not forbid them.
# FASTCNN_CUDA_BUILD is the sentence that `python -m fastcnn info` prints about them.
set(FASTCNN_CUDA_BUILD "${FASTCNN_CUDA_LEFT_OUT}")
if(NOT FASTCNN_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(FASTCNN_CUDA_BUILD "left out: nvcc was not found when fastcnn was built")
    if(FASTCNN_CUDA STREQUAL "ON")
      message(FATAL_ERROR "FASTCNN_CUDA=1 demands CUDA kernels, but nvcc was not found; put it on PATH or set CUDACXX")
    endif()
  endif()
endif()

# CUDA 12.0 is the first whose compiler knows Hopper's instructions.
set(FASTCNN_NVCC_OLDEST 12.0)
if(NOT FASTCNN_CUDA STREQUAL "OFF" AND CMAKE_CUDA_COMPILER)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE nvcc_version)
  if(nvcc_version MATCHES "release ([0-9.]+)" AND CMAKE_MATCH_1 VERSION_LESS FASTCNN_NVCC_OLDEST)
    set(FASTCNN_CUDA_BUILD "left out: nvcc ${CMAKE_MATCH_1} is older than ${FASTCNN_NVCC_OLDEST}")
    if(FASTCNN_CUDA STREQUAL "ON")
      message(FATAL_ERROR "FASTCNN_CUDA=1 demands CUDA kernels, which need nvcc ${FASTCNN_NVCC_OLDEST}; "
                          "${CMAKE_CUDA_COMPILER} is ${CMAKE_MATCH_1}")
    endif()
    set(FASTCNN_CUDA "OFF")
  endif()
endif()

if(NOT FASTCNN_CUDA STREQUAL "OFF" AND CMAKE_CUDA_COMPILER)
  # enable_language() would otherwise pick a default architecture and warn about it.
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)

  # A cubin for each: it also runs on later devices of the same major version, but for the small ones on boards of
  # their own (87, 101 and 110, Orin and Thor). The "a" of 90a admits Hopper's own instructions. Last the newest
  # as PTX, which the driver compiles for devices that came after this compiler.
  set(FASTCNN_ARCHS ${FASTCNN_CUDA_ARCHS})
  if(NOT FASTCNN_ARCHS)
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE supported)
    foreach(arch 80 87 90 100 101 110 120)
      if(supported MATCHES "compute_${arch}[\r\n]")
        list(APPEND FASTCNN_ARCHS ${arch})
        set(newest ${arch})
      endif()
    endforeach()
    list(TRANSFORM FASTCNN_ARCHS REPLACE "^90$" "90a")
    list(APPEND FASTCNN_ARCHS ${newest}-virtual)
  endif()
  foreach(arch IN LISTS FASTCNN_ARCHS)
    if(NOT arch MATCHES "^([0-9]+[af]?|[0-9]+-virtual)$")
      message(FATAL_ERROR "FASTCNN_CUDA_ARCHS: ${arch} is not an architecture; e.g. \"80;90a;80-virtual\"")
    endif()
  endforeach()
  list(TRANSFORM FASTCNN_ARCHS REPLACE "^([0-9]+[af]?)$" "\\1-real" OUTPUT_VARIABLE real_archs)

  set(FASTCNN_CUDA_SOURCES
    cuda/device.cu
    ops/add_relu/add_relu_cuda.cu
    ops/concat/copy_slice_cuda.cu
    ops/conv2d/conv2d_cuda.cu
    ops/conv2d/conv2d_grouped_cuda.cu
    ops/conv2d/conv2d_sm80_bfloat16_cuda.cu
    ops/conv2d/conv2d_sm80_float16_cuda.cu
    ops/conv2d/conv2d_sm80_float32_cuda.cu
    ops/conv2d_max_pool2d/conv2d_max_pool2d_cuda.cu
    ops/lrn/lrn_cuda.cu
    ops/pool/pool_cuda.cu
    ops/rbf/rbf_cuda.cu
    ops/subsample2d/subsample2d_cuda.cu)

  set(cuda_flags $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra -Xptxas=-warn-spills>)
  add_library(fastcnn_cuda OBJECT ${FASTCNN_CUDA_SOURCES})
  set_target_properties(fastcnn_cuda PROPERTIES CUDA_ARCHITECTURES "${real_archs}" CUDA_VISIBILITY_PRESET hidden)
  target_include_directories(fastcnn_cuda PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_options(fastcnn_cuda PRIVATE ${cuda_flags})

  # Hopper's own kernels, whose instructions no other architecture has.
  set(FASTCNN_SM90_SOURCES
    cuda/tensor_map.cu
    ops/conv2d/conv2d_sm90_bfloat16_cuda.cu
    ops/conv2d/conv2d_sm90_cuda.cu
    ops/conv2d/conv2d_sm90_float16_cuda.cu
    ops/conv2d/conv2d_sm90_float32_cuda.cu)
  if("90a" IN_LIST FASTCNN_ARCHS)
    add_library(fastcnn_cuda_sm90 OBJECT ${FASTCNN_SM90_SOURCES})
    set_target_properties(fastcnn_cuda_sm90 PROPERTIES CUDA_ARCHITECTURES 90a-real CUDA_VISIBILITY_PRESET hidden)
    target_include_directories(fastcnn_cuda_sm90 PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    target_compile_options(fastcnn_cuda_sm90 PRIVATE ${cuda_flags})
    target_compile_definitions(fastcnn_cuda PRIVATE FASTCNN_WITH_SM90)
    target_link_libraries(_C PRIVATE fastcnn_cuda_sm90)
  endif()

  find_package(CUDAToolkit REQUIRED)
  target_sources(_C PRIVATE python/bind_cuda.cpp)
  target_link_libraries(_C PRIVATE fastcnn_cuda CUDA::cudart_static)
  # Nothing of the static runtime is exported: another copy of it lives in torch.
  target_link_options(_C PRIVATE LINKER:--exclude-libs,ALL)
  string(REPLACE ";" "," archs_text "${FASTCNN_ARCHS}")
  set(FASTCNN_CUDA_BUILD "nvcc ${CMAKE_CUDA_COMPILER_VERSION}, for sm_${archs_text}")
  # What the ledger's entries speak for: every source that a kernel is made of.
  file(GLOB hashed RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} CONFIGURE_DEPENDS base/*.h cuda/* ops/*/*.cu ops/*/*.cuh ops/*/*_cuda.h)
  list(SORT hashed)
  set(hashes "")
  foreach(file IN LISTS hashed)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
    file(SHA256 ${CMAKE_CURRENT_SOURCE_DIR}/${file} hash)
    string(APPEND hashes "${file} ${hash}\n")
  endforeach()
  string(SHA256 hash "${hashes}")
  string(SUBSTRING ${hash} 0 12 hash)
  target_compile_definitions(_C PRIVATE FASTCNN_WITH_CUDA FASTCNN_CUDA_ARCHS="${archs_text}" FASTCNN_CUDA_SOURCE="${hash}")
endif()
