// Work split over torch's own threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace septet {

// Calls range(begin, end) over [0, count). Boundaries are multiples of 64 elements whatever the
// number of threads, so that vectors never straddle one and results do not depend on it.
template <class F>
void parallel_elements(int64_t count, int64_t grain, const F& range) {
  constexpr int64_t kBlock = 64;
  if (count <= grain) {
    if (count > 0) range(int64_t{0}, count);
    return;
  }
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  torch::stable::parallel_for(0, blocks, grain / kBlock, [&](int64_t first, int64_t last) {
    const int64_t end = last * kBlock;
    range(first * kBlock, end < count ? end : count);
  });
}

// Calls range(begin, end) over [0, tasks), tasks of equal size that make up `work` elements.
template <class F>
void parallel_tasks(int64_t tasks, int64_t work, int64_t grain, const F& range) {
  if (tasks < 2 || work <= grain) {
    range(int64_t{0}, tasks);
    return;
  }
  torch::stable::parallel_for(0, tasks, (tasks * grain + work - 1) / work, range);
}

}  // namespace septet
