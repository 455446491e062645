# The CUDA sources as C++, for the thread-block emulator. Serves the tests; no wheel has it.
file(GLOB EMULATOR_SOURCES CONFIGURE_DEPENDS tests/emulation/*.cpp)
file(GLOB EMULATED_SOURCES CONFIGURE_DEPENDS csrc/ops/*.cu)
# A source has one language per project, and CUDA claims *.cu: give each a C++ file that includes it.
set(wrapped "")
foreach(source ${EMULATED_SOURCES})
  get_filename_component(family "${source}" NAME_WE)
  set(wrapper "${CMAKE_CURRENT_BINARY_DIR}/emulated/${family}.cpp")
  file(CONFIGURE OUTPUT "${wrapper}" CONTENT "#include \"${source}\"\n")
  list(APPEND wrapped "${wrapper}")
endforeach()
add_library(_C_emulated MODULE ${wrapped} ${EMULATOR_SOURCES})
target_include_directories(_C_emulated PRIVATE tests/emulation/include)
target_compile_definitions(_C_emulated PRIVATE SEPTET_EMULATED)
# Kernels fill what their flags say they will read; g++ cannot follow that.
target_compile_options(_C_emulated PRIVATE -O2 -Wno-maybe-uninitialized)
# Every access to memory calls a function of tests/emulation/instrumentation.cpp, which stands in for
# the runtime of ThreadSanitizer; -g1 lets a message name the line.
set_source_files_properties(${wrapped} PROPERTIES COMPILE_OPTIONS
  "-g1;-fsanitize=thread;--param=tsan-instrument-func-entry-exit=0")
target_link_libraries(_C_emulated PRIVATE septet_flags septet_torch)
set_target_properties(_C_emulated PROPERTIES PREFIX "" INSTALL_RPATH "$ORIGIN/../torch/lib")
install(TARGETS _C_emulated DESTINATION septet)
