// Philox normals in bulk on the CPU.
#pragma once

#include "functors/philox.h"
#include "launch/lanes.h"
#include "ops/noise.h"

namespace septet {
SEPTET_ISA_BEGIN

using Words = Lanes<uint32_t, kLanes>;
using Floats = Lanes<float, kLanes>;

inline uint64_t philox_seed(const PhiloxArgs& args, int64_t stream) {
  return static_cast<uint64_t>(args.pairs[2 * stream]);
}

inline uint64_t philox_offset(const PhiloxArgs& args, int64_t stream, int64_t row) {
  return static_cast<uint64_t>(args.pairs[2 * stream + 1] + row * args.increment);
}

// Per-sample layout, logical order: elements [begin, end) of one stream, whole blocks at a time.
inline void normal_blocks(uint64_t seed, uint64_t offset, int64_t begin, int64_t end, float* out) {
  constexpr int kBatch = 4 * kLanes;
  const auto key0 = static_cast<uint32_t>(seed);
  const auto key1 = static_cast<uint32_t>(seed >> 32);
  uint32_t lane_numbers[kLanes];
  for (int i = 0; i < kLanes; ++i) lane_numbers[i] = static_cast<uint32_t>(i);
  const Words lane = Words::load(lane_numbers);
  for (int64_t first = begin / 4 * 4; first < end; first += kBatch) {
    const uint64_t index = offset / 4 + static_cast<uint64_t>(first / 4);
    const Words low = Words(static_cast<uint32_t>(index)) + lane;
    const Words carry = select(low < lane, Words(1u), Words(0u));
    const Words high = Words(static_cast<uint32_t>(index >> 32)) + carry;
    const PhiloxBlock<Words> words =
        philox4x32<Words>({low, high, Words(0u), Words(0u)}, key0, key1);
    Floats normals[4];
    box_muller<PortableMath>(words.x, words.y, normals[0], normals[1]);
    box_muller<PortableMath>(words.z, words.w, normals[2], normals[3]);
    if (first >= begin && first + kBatch <= end) {
      store_interleaved(normals, out + (first - begin));
      continue;
    }
    float batch[kBatch];
    store_interleaved(normals, batch);
    const int64_t from = first < begin ? begin : first;
    const int64_t to = first + kBatch < end ? first + kBatch : end;
    for (int64_t i = from; i < to; ++i) out[i - begin] = batch[i - first];
  }
}

// Any layout: every element looks up its own place.
inline void normal_scattered(const PhiloxArgs& args, int64_t row, int64_t begin, int64_t end,
                             float* out) {
  for (int64_t first = begin; first < end; first += kLanes) {
    uint32_t words[4][kLanes] = {}, keys[2][kLanes] = {}, component[kLanes] = {};
    const int64_t count = end - first < kLanes ? end - first : kLanes;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t element = logical_index(args.layout, first + i);
      const int64_t stream = element / args.per_stream;
      const uint64_t seed = philox_seed(args, stream);
      const PhiloxPlace place =
          philox_place(static_cast<uint64_t>(element % args.per_stream),
                       philox_offset(args, stream, row), static_cast<uint64_t>(args.threads));
      words[0][i] = static_cast<uint32_t>(place.index);
      words[1][i] = static_cast<uint32_t>(place.index >> 32);
      words[2][i] = static_cast<uint32_t>(place.thread);
      words[3][i] = static_cast<uint32_t>(place.thread >> 32);
      keys[0][i] = static_cast<uint32_t>(seed);
      keys[1][i] = static_cast<uint32_t>(seed >> 32);
      component[i] = place.component;
    }
    const PhiloxBlock<Words> block =
        philox4x32<Words>({Words::load(words[0]), Words::load(words[1]), Words::load(words[2]),
                           Words::load(words[3])},
                          Words::load(keys[0]), Words::load(keys[1]));
    const Words which = Words::load(component);
    const auto second_pair = (which & Words(2u)) != Words(0u);
    Floats sine, cosine;
    box_muller<PortableMath>(select(second_pair, block.z, block.x),
                             select(second_pair, block.w, block.y), sine, cosine);
    float values[kLanes];
    select((which & Words(1u)) != Words(0u), cosine, sine).store(values);
    for (int64_t i = 0; i < count; ++i) out[first - begin + i] = values[i];
  }
}

// Normals for the elements at [begin, end) in memory order.
inline void normal_fill(const PhiloxArgs& args, int64_t row, int64_t begin, int64_t end,
                        float* out) {
  if (args.threads != 0 || args.layout.channels_last) {
    normal_scattered(args, row, begin, end, out);
    return;
  }
  for (int64_t position = begin; position < end;) {
    const int64_t stream = position / args.per_stream;
    const int64_t origin = stream * args.per_stream;
    const int64_t stop = end < origin + args.per_stream ? end : origin + args.per_stream;
    normal_blocks(philox_seed(args, stream), philox_offset(args, stream, row), position - origin,
                  stop - origin, out + (position - begin));
    position = stop;
  }
}

SEPTET_ISA_END
}  // namespace septet
