# CPU kernels. ops/*/*_cpu.cpp are compiled once per instruction set, each time into its own namespace (see
# cpu/isa.h), and chosen at run time; all other sources once, for any processor.
file(GLOB FASTCNN_ISA_SOURCES CONFIGURE_DEPENDS ops/*/*_cpu.cpp)
list(APPEND FASTCNN_ISA_SOURCES cpu/fingerprint.cpp)
file(GLOB FASTCNN_CPU_SOURCES CONFIGURE_DEPENDS cpu/*.cpp ops/*/*.cpp plan/*.cpp python/*.cpp)
list(FILTER FASTCNN_CPU_SOURCES EXCLUDE REGEX "_cpu\\.cpp$|_amx\\.cpp$|/fingerprint\\.cpp$|/bind_cuda\\.cpp$")
# AVX512-BF16 goes beside avx512, for what multiplies pairs of bfloat16.
set(FASTCNN_BF16_SOURCES
  ops/conv2d/direct_cpu.cpp
  ops/linear/linear_cpu.cpp)
# And AVX512-VNNI, for what multiplies fours of bytes.
set(FASTCNN_VNNI_SOURCES
  ops/conv2d_int8/gemm_int8_cpu.cpp)
# And AMX, for what multiplies tiles of either.
file(GLOB FASTCNN_AMX_SOURCES CONFIGURE_DEPENDS ops/*/*_amx.cpp)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(FASTCNN_ISAS baseline avx2 avx512 avx512_bf16 avx512_vnni amx)
else()
  set(FASTCNN_ISAS baseline)
endif()
set(FASTCNN_SIMD_BYTES_baseline 16)
set(FASTCNN_SIMD_BYTES_avx2 32)
set(FASTCNN_SIMD_BYTES_avx512 64)
set(FASTCNN_SIMD_BYTES_avx512_bf16 64)
set(FASTCNN_SIMD_BYTES_avx512_vnni 64)
set(FASTCNN_SIMD_BYTES_amx 64)
set(FASTCNN_FLAGS_avx2 -mavx2 -mfma -mf16c -mtune=haswell)
set(FASTCNN_FLAGS_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c -mtune=skylake-avx512)
set(FASTCNN_FLAGS_avx512_bf16 ${FASTCNN_FLAGS_avx512} -mavx512bf16)
set(FASTCNN_FLAGS_avx512_vnni ${FASTCNN_FLAGS_avx512} -mavx512vnni)
set(FASTCNN_FLAGS_amx ${FASTCNN_FLAGS_avx512_bf16} -mamx-tile -mamx-int8 -mamx-bf16)

target_sources(_C PRIVATE ${FASTCNN_CPU_SOURCES})
foreach(isa IN LISTS FASTCNN_ISAS)
  set(sources ${FASTCNN_ISA_SOURCES})
  if(isa STREQUAL "avx512_bf16")
    set(sources ${FASTCNN_BF16_SOURCES})
  elseif(isa STREQUAL "avx512_vnni")
    set(sources ${FASTCNN_VNNI_SOURCES})
  elseif(isa STREQUAL "amx")
    set(sources ${FASTCNN_AMX_SOURCES})
  endif()
  if(sources)
    add_library(fastcnn_${isa} OBJECT ${sources})
    target_include_directories(fastcnn_${isa} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    target_compile_definitions(fastcnn_${isa} PRIVATE FASTCNN_ISA=${isa} FASTCNN_SIMD_BYTES=${FASTCNN_SIMD_BYTES_${isa}})
    # What is written is what runs: a multiply and an add are fused only where the source says fma(). Math
    # functions set no errno and no exception flags, so that comparisons become selects; NaN and infinity keep
    # their meaning (no -ffast-math). GCC 12 takes its own AVX-512 header for uninitialised.
    target_compile_options(fastcnn_${isa} PRIVATE -Wall -Wextra -Wno-psabi
      $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
      -ffp-contract=off -fno-math-errno -fno-trapping-math ${FASTCNN_FLAGS_${isa}})
    target_sources(_C PRIVATE $<TARGET_OBJECTS:fastcnn_${isa}>)
  endif()
endforeach()
