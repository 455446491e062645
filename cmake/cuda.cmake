# septet._C_cuda, when nvcc is there. Whether this machine has a GPU does not matter.
set(SEPTET_BUILT_CUDA_ARCHS "")
if(NOT SEPTET_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES ${SEPTET_CUDA_ARCHS})
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 20)
    file(GLOB CUDA_SOURCES CONFIGURE_DEPENDS csrc/ops/*.cu)
    add_library(_C_cuda MODULE ${CUDA_SOURCES})
    target_link_libraries(_C_cuda PRIVATE septet_flags septet_torch)
    target_compile_definitions(_C_cuda PRIVATE USE_CUDA)
    # -fmad=false: as -ffp-contract=off on the CPU.
    target_compile_options(_C_cuda PRIVATE
      $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false -Xptxas=-warn-spills,-warn-lmem-usage
        -Werror=all-warnings -Xcompiler=-Wall,-Wextra>)
    # libtorch.so leads to libtorch_cuda.so, which a CPU build of torch has not; as-needed linking
    # would drop it, and the current stream would stay an undefined symbol.
    set_target_properties(_C_cuda PROPERTIES PREFIX "" CUDA_RUNTIME_LIBRARY Static
      CUDA_VISIBILITY_PRESET hidden INSTALL_RPATH "$ORIGIN/../torch/lib"
      LINK_OPTIONS "LINKER:--exclude-libs,ALL;LINKER:--no-as-needed")
    install(TARGETS _C_cuda DESTINATION septet)
    string(REPLACE ";" " " SEPTET_BUILT_CUDA_ARCHS "${SEPTET_CUDA_ARCHS}")
  elseif(SEPTET_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SEPTET_CUDA=ON, but no CUDA compiler was found: put nvcc on PATH or set CUDACXX")
  endif()
endif()
if(SEPTET_BUILT_CUDA_ARCHS)
  message(STATUS "septet: CUDA kernels for ${SEPTET_BUILT_CUDA_ARCHS}")
else()
  message(STATUS "septet: no CUDA kernels")
endif()
