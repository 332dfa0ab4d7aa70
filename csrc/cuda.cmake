# CUDA kernels, where nvcc is found and FASTCNN_CUDA does not forbid them.
# FASTCNN_CUDA_BUILD is the sentence that `python -m fastcnn info` prints about them.
set(FASTCNN_CUDA_BUILD "left out: FASTCNN_CUDA=0")
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
