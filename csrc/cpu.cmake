# CPU kernels. Sources listed in FASTCNN_ISA_SOURCES are compiled once per instruction set, each time into its
# own namespace (see cpu/isa.h); FASTCNN_CPU_SOURCES are compiled once, for the baseline.
set(FASTCNN_CPU_SOURCES)
set(FASTCNN_ISA_SOURCES)

target_sources(_C PRIVATE ${FASTCNN_CPU_SOURCES})
