// torch's side of an op: tensors as views, through the stable ABI only.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "ops/checks.h"

#if defined(SEPTET_EMULATED)
#include "emulator.h"
#endif

// The emulator registers the same sources again, as CPU ops of a namespace of its own.
#if defined(SEPTET_EMULATED)
#define SEPTET_NAMESPACE septet_emulated
#define SEPTET_CUDA_KEY CPU
#else
#define SEPTET_NAMESPACE septet
#define SEPTET_CUDA_KEY CUDA
#endif

// A second expansion, so that the macros above are replaced before names are pasted together.
#define SEPTET_LIBRARY_FRAGMENT(name, m) STABLE_TORCH_LIBRARY_FRAGMENT(name, m)
#define SEPTET_LIBRARY_IMPL(name, key, m) STABLE_TORCH_LIBRARY_IMPL(name, key, m)

namespace septet {

using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& tensor) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Dtype::float32;
    case ScalarType::Double:
      return Dtype::float64;
    case ScalarType::Half:
      return Dtype::float16;
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    case ScalarType::Long:
      return Dtype::int64;
    case ScalarType::Byte:
      return Dtype::uint8;
    default:
      return Dtype::other;
  }
}

// Sizes and strides stay owned by the tensor, which outlives the view.
inline TensorView view(const Tensor& tensor) {
  TensorView result;
  result.data = const_cast<void*>(tensor.const_data_ptr());
  result.dtype = dtype_of(tensor);
  result.dim = tensor.dim();
  result.sizes = tensor.sizes().data();
  result.strides = tensor.strides().data();
  result.device = tensor.is_cpu() ? -1 : tensor.get_device_index();
  result.present = true;
#if defined(SEPTET_EMULATED)
  int64_t elements = result.numel() > 0 ? 1 : 0;
  for (int64_t i = 0; elements > 0 && i < result.dim; ++i) {
    elements += (result.sizes[i] - 1) * result.strides[i];
  }
  emulation::allow_access(result.data, static_cast<std::size_t>(elements * tensor.element_size()));
#endif
  return result;
}

inline TensorView view(const std::optional<Tensor>& tensor) {
  return tensor ? view(*tensor) : TensorView{};
}

}  // namespace septet
