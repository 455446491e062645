// Work split over torch's own threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
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

// The same where threads may be of different speed: each takes its own share task by task, in
// order, and who is done helps another one from the end of its share.
template <class F>
void parallel_shares(int64_t tasks, int64_t work, int64_t grain, const F& range) {
  constexpr int64_t kMostShares = 64;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t shares = std::min({threads, kMostShares, tasks, work / grain});
  if (shares < 2) {
    range(int64_t{0}, tasks);
    return;
  }
  // Tasks that are left: the first one in the upper half of a word, the one behind the last below.
  std::atomic<uint64_t> left[kMostShares];
  for (int64_t i = 0; i < shares; ++i) {
    left[i] = static_cast<uint64_t>(tasks * i / shares) << 32 | (tasks * (i + 1) / shares);
  }
  torch::stable::parallel_for(0, shares, 1, [&](int64_t first, int64_t) {
    for (int64_t i = 0; i < shares; ++i) {
      std::atomic<uint64_t>& share = left[(first + i) % shares];
      uint64_t now = share;
      while (now >> 32 < (now & 0xffffffff)) {
        const uint64_t then = i == 0 ? now + (uint64_t{1} << 32) : now - 1;
        if (!share.compare_exchange_weak(now, then)) continue;
        const auto task = static_cast<int64_t>(i == 0 ? now >> 32 : then & 0xffffffff);
        range(task, task + 1);
        now = share;
      }
    }
  });
}

}  // namespace septet
