// The device and stream that torch wants a kernel on.
#pragma once

#include "launch/cuda.cuh"

#if !defined(SEPTET_EMULATED)
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#endif

namespace septet {

// Makes `device` current for as long as it lives.
class DeviceScope {
 public:
#if defined(SEPTET_EMULATED)
  explicit DeviceScope(int) {}
  ~DeviceScope() { emulation::forget_operands(); }  // those of the op that ends
  cudaStream_t stream() const { return nullptr; }
#else
  explicit DeviceScope(int device) : guard_(device), device_(device) {}
  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  int device_;
#endif
};

}  // namespace septet
