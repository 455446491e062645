// How toys.py reaches the kernels of a toy_*.cu file: as C functions that return null or what went
// wrong.
#pragma once

#include <exception>
#include <string>

#include "launch/cuda.cuh"

#define TOY extern "C" __attribute__((visibility("default"))) const char*

namespace septet {

template <class... Params, class... Args>
const char* run(void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared_bytes,
                Args... args) {
  thread_local std::string message;
  try {
    launch(kernel, grid, block, shared_bytes, nullptr, args...);
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace septet
