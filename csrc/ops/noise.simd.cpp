#include "launch/philox_cpu.h"

namespace septet {
SEPTET_ISA_BEGIN
namespace {

inline constexpr int64_t kTile = 256;

template <class T>
void fill(const PhiloxArgs& args, void* out, int64_t begin, int64_t end) {
  if constexpr (sizeof(T) == sizeof(float)) {
    normal_fill(args, 1, begin, end, static_cast<float*>(out) + begin);
    return;
  }
  float values[kTile];
  accumulator_t<T> wide[kTile];
  for (int64_t start = begin; start < end; start += kTile) {
    const int64_t count = end - start < kTile ? end - start : kTile;
    normal_fill(args, 1, start, start + count, values);
    for (int64_t i = 0; i < count; ++i) wide[i] = values[i];
    convert_to(wide, static_cast<T*>(out) + start, count);
  }
}

}  // namespace

NormalRange normal_range(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64:
      return fill<double>;
    case Dtype::float16:
      return fill<float16>;
    case Dtype::bfloat16:
      return fill<bfloat16>;
    default:
      return fill<float>;
  }
}

SEPTET_ISA_END
}  // namespace septet
