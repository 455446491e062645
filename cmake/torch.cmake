# Finds the torch that is installed beside this Python. Its own CMake package is not used: it looks
# for CUDA, MKL and more, none of which the stable ABI needs.
set(SEPTET_TORCH_ABI_TARGET "2.10")
find_package(Python REQUIRED COMPONENTS Interpreter)
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import torch, pathlib; print(pathlib.Path(torch.__file__).parent, torch.__version__, sep=';')"
  OUTPUT_VARIABLE torch_facts OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
  RESULT_VARIABLE torch_missing)
if(torch_missing)
  message(FATAL_ERROR "septet needs torch at build time: pip install torch scikit-build-core pybind11 cmake ninja, then pip install --no-build-isolation .")
endif()
list(GET torch_facts 0 SEPTET_TORCH_DIR)
list(GET torch_facts 1 SEPTET_BUILD_TORCH)
message(STATUS "septet: building against torch ${SEPTET_BUILD_TORCH}, ABI target ${SEPTET_TORCH_ABI_TARGET}")

add_library(septet_torch INTERFACE)
target_include_directories(septet_torch SYSTEM INTERFACE "${SEPTET_TORCH_DIR}/include")
target_compile_definitions(septet_torch INTERFACE TORCH_TARGET_VERSION=0x020a000000000000 TORCH_STABLE_ONLY)
target_link_directories(septet_torch INTERFACE "${SEPTET_TORCH_DIR}/lib")
target_link_libraries(septet_torch INTERFACE torch torch_cpu)
