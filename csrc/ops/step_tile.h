// How the CPU kernels read the operands of a step, one tile at a time. Operands that already are
// arithmetic-type values in memory order are read where they lie; the others are brought into that
// form tile by tile, which costs little because a tile stays in the first-level cache.
#pragma once

#include "launch/lanes.h"
#include "ops/step.h"

namespace septet {
SEPTET_ISA_BEGIN

inline constexpr int64_t kTile = 256;

// Elements [start, start + count) in memory order; buffers hold kTile values. What lies behind
// `count` in a returned tile may be read up to the next whole vector, but means nothing.
template <class T>
class TileSource {
 protected:
  using A = accumulator_t<T>;
  static constexpr bool kDirect = sizeof(T) == sizeof(A);

  explicit TileSource(const StepArgs& args) : args_(args) {}

  void move_to(int64_t start, int64_t count) {
    start_ = start;
    count_ = count;
    direct_ = kDirect && count % Vector<A>::size == 0;
  }

  const A* flat(const void* data, A* buffer) const {
    const T* source = static_cast<const T*>(data) + start_;
    if constexpr (kDirect) {
      if (direct_) return source;
    }
    convert_from(source, buffer, count_);
    return buffer;
  }

  // Run by run out of a model output that also holds the variance; `shift` picks the half.
  const A* strided(const void* data, int64_t shift, A* buffer) const {
    if (args_.output_block == args_.block) return flat(data, buffer);
    const T* source = static_cast<const T*>(data);
    for_runs(args_.block, [&](int64_t i, int64_t count, int64_t position) {
      const int64_t place = position / args_.block * args_.output_block + position % args_.block;
      convert_from(source + place + shift, buffer + i, count);
    });
    return buffer;
  }

  // Calls fill(first, count, position) for the runs of the tile that end at multiples of `period`.
  template <class F>
  void for_runs(int64_t period, F fill) const {
    for (int64_t i = 0; i < count_;) {
      const int64_t left = period - (start_ + i) % period;
      const int64_t count = left < count_ - i ? left : count_ - i;
      fill(i, count, start_ + i);
      i += count;
    }
  }

  const StepArgs& args_;
  bool direct_ = false;
  int64_t start_ = 0, count_ = 0;
};

SEPTET_ISA_END
}  // namespace septet
