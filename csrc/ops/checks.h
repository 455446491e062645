// A tensor as the kernels see it, and the checks that every op makes before it touches memory.
// Knows neither torch nor numpy, so both worlds get the same checks and the same messages.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

namespace septet {

enum class Dtype { float32, float64, float16, bfloat16, int64, uint8, other };

inline const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return "float32";
    case Dtype::float64:
      return "float64";
    case Dtype::float16:
      return "float16";
    case Dtype::bfloat16:
      return "bfloat16";
    case Dtype::int64:
      return "int64";
    case Dtype::uint8:
      return "uint8";
    default:
      return "another dtype";
  }
}

// Of the floating-point types.
inline int64_t dtype_size(Dtype dtype) {
  if (dtype == Dtype::float64) return 8;
  return dtype == Dtype::float32 ? 4 : 2;
}

inline bool is_floating(Dtype dtype) {
  return dtype < Dtype::int64;
}

// The dtype that coefficients and thresholds of a tensor come in.
inline Dtype accumulator_dtype(Dtype dtype) {
  return dtype == Dtype::float64 ? Dtype::float64 : Dtype::float32;
}

struct TensorView {
  void* data = nullptr;
  Dtype dtype = Dtype::other;
  int64_t dim = 0;
  const int64_t* sizes = nullptr;
  const int64_t* strides = nullptr;  // in elements
  int device = -1;                   // -1 for the CPU, else the index of the CUDA device
  bool present = false;

  int64_t size(int64_t axis) const { return sizes[axis]; }
  int64_t channels() const { return dim > 1 ? sizes[1] : 1; }
  int64_t numel() const {
    int64_t product = 1;
    for (int64_t i = 0; i < dim; ++i) product *= sizes[i];
    return product;
  }
};

inline std::string shape_text(const TensorView& view, int64_t first = 0) {
  std::string text = "[";
  for (int64_t i = first; i < view.dim; ++i) {
    if (i > first) text += ", ";
    text += std::to_string(view.sizes[i]);
  }
  return text + "]";
}

// Throws std::invalid_argument("septet.<op>: <parts...>") unless the condition holds. The parts
// are only put together when it does not.
template <class... Parts>
void require(bool condition, const char* op, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  message << "septet." << op << ": ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

// Dense in the order of the dimensions from `first` on.
inline bool is_contiguous(const TensorView& view, int64_t first = 0) {
  if (view.numel() == 0) return true;
  int64_t expected = 1;
  for (int64_t i = view.dim - 1; i >= first; --i) {
    if (view.sizes[i] != 1 && view.strides[i] != expected) return false;
    expected *= view.sizes[i];
  }
  return true;
}

// Dense as [N, H, W, C]; only four dimensions from `first` on have such a layout.
inline bool is_channels_last(const TensorView& view, int64_t first = 0) {
  if (view.dim - first != 4) return false;
  if (view.numel() == 0) return true;
  int64_t expected = 1;
  for (int64_t axis : {1, 3, 2, 0}) {
    if (view.sizes[first + axis] != 1 && view.strides[first + axis] != expected) return false;
    expected *= view.sizes[first + axis];
  }
  return true;
}

inline void require_floating(const char* op, const char* name, const TensorView& view) {
  require(is_floating(view.dtype), op, name, " must be float32, float64, float16 or bfloat16, got ",
          dtype_name(view.dtype));
}

inline void require_dtype(const char* op, const char* name, const TensorView& view, Dtype dtype) {
  require(view.dtype == dtype, op, name, " must be ", dtype_name(dtype), ", got ",
          dtype_name(view.dtype));
}

inline std::string device_name(int device) {
  return device < 0 ? "cpu" : "cuda:" + std::to_string(device);
}

inline void require_device(const char* op, const char* name, const TensorView& view, int device) {
  require(view.device == device, op, name, " must be on ", device_name(device), ", got ",
          device_name(view.device));
}

// [B, C, spatial...] in one of the two dense layouts, flattened.
struct Layout {
  int64_t numel = 0;
  int64_t per_sample = 1;  // C * spatial
  int64_t channels = 1;
  int64_t spatial = 1;
  bool channels_last = false;
};

inline Layout require_layout(const char* op, const char* name, const TensorView& view) {
  Layout layout;
  layout.numel = view.numel();
  layout.channels = view.channels();
  for (int64_t i = 2; i < view.dim; ++i) layout.spatial *= view.size(i);
  layout.per_sample = layout.channels * layout.spatial;
  const bool contiguous = is_contiguous(view);
  require(contiguous || is_channels_last(view), op, name,
          " must be dense, contiguous or channels_last");
  layout.channels_last = !contiguous;
  return layout;
}

// Same shape (but `factor` times the channels), dtype, device and memory order as `model`.
inline void require_like(const char* op, const char* name, const TensorView& view,
                         const TensorView& model, const Layout& layout, int64_t factor = 1,
                         int64_t first = 0) {
  bool same = view.dim - first == model.dim;
  for (int64_t i = 0; same && i < model.dim; ++i) {
    same = view.size(first + i) == model.size(i) * (i == 1 ? factor : 1);
  }
  require(same, op, name, " must match sample in shape, got ", shape_text(view, first), " and ",
          shape_text(model));
  require_dtype(op, name, view, model.dtype);
  require_device(op, name, view, model.device);
  require(layout.channels_last ? is_channels_last(view, first) : is_contiguous(view, first), op,
          name, " must have the memory layout of sample");
}

// [B, 1, spatial...] beside a [B, C, spatial...] `model` of that name.
inline void require_mask(const char* op, const TensorView& mask, const char* model_name,
                         const TensorView& model) {
  bool fits = mask.dim == model.dim && model.dim > 1;
  for (int64_t i = 0; fits && i < model.dim; ++i) {
    fits = mask.size(i) == (i == 1 ? 1 : model.size(i));
  }
  require(fits && is_contiguous(mask), op, "mask must be contiguous, of the shape of ", model_name,
          " with one channel, got ", shape_text(mask), " and ", shape_text(model));
  require_dtype(op, "mask", mask, model.dtype);
  require_device(op, "mask", mask, model.device);
}

}  // namespace septet
