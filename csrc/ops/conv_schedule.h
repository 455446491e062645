// How a convolution is divided over threads; knows neither torch nor its threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/conv.h"

namespace septet {

// Rows of a block: the rearranged inputs are to stay in the second-level cache, and the weights to
// be read by as many rows as possible.
inline int64_t conv_block_rows(const ConvArgs& args) {
  constexpr int64_t kFloats = 640 * 1024, kFewest = 64, kMost = 96;
  const int64_t rows = kFloats / (args.planes * args.depth * kGroup);
  return std::clamp(rows, kFewest, kMost);
}

// Groups of output channels that a thread takes at a time: their products lie between the two
// caches, and every group more is one reading of the inputs less.
inline int64_t conv_task_groups(const ConvArgs& args, int64_t blocks, int64_t threads) {
  const int64_t groups = groups_of(args.out_channels);
  const int64_t most = args.planes == 1 ? 32 : 2;
  const int64_t parts = std::max((groups + most - 1) / most, (threads + blocks - 1) / blocks);
  // even numbers suit the widest kernels
  return std::max<int64_t>(2, ((groups + parts - 1) / parts + 1) / 2 * 2);
}

// Floats for the rearranged inputs of a stage, and for the products of a thread.
inline int64_t conv_stage_floats(const ConvArgs& args, int64_t rows, int64_t blocks) {
  return args.planes * (args.depth * kGroup * rows + blocks * kGroup);
}

// Rows of a block that a thread computes alone, 0 where blocks are better shared: too few rows
// would share a reading of the weights, or threads would have too few blocks to finish together.
inline int64_t conv_own_rows(const ConvArgs& args, int64_t threads) {
  constexpr int64_t kFloats = 128 * 1024, kFewest = 24, kMost = 96, kBlocks = 2;
  const int64_t rows = std::min(
      {kFloats / (args.planes * args.depth * kGroup), kMost, args.rows / (kBlocks * threads)});
  return rows >= kFewest ? rows : 0;
}

// Multiply-adds that take as long as moving a number.
inline constexpr int64_t kMove = 8;

// Every thread rearranges and multiplies blocks of its own, which stay in its second-level cache;
// nobody waits for another one. Blocks are too short to transform the weights for each of them.
template <class Split, class Memory>
void convolve_apart(ConvArgs args, const ConvKernels& kernels, int64_t threads, int64_t rows,
                    const Split& split, const Memory& memory) {
  const int64_t fewest = (args.rows + rows - 1) / rows;
  const EqualParts blocks = EqualParts::of(args.rows, (fewest + threads - 1) / threads * threads);
  const int64_t groups = groups_of(args.out_channels), longest = blocks.begin(1);
  const int64_t task_groups = conv_task_groups(args, blocks.parts, threads);
  const int64_t floats = conv_stage_floats(args, longest, 1);
  const int64_t plane = args.depth * kGroup * kGroup;
  const int64_t work = args.rows * args.planes * args.depth * kGroup * args.out_channels;
  if (kernels.transform != nullptr) {
    float* const points = memory(false, groups * args.planes * plane);
    split(groups, groups * args.planes * plane * kMove,
          [&](int64_t begin, int64_t end) { kernels.transform(args, begin, end, points); });
    args.points = points;
  }
  split(blocks.parts, work, [&](int64_t begin, int64_t end) {
    float* const values = memory(true, floats + task_groups * conv_products(args, longest));
    for (int64_t i = begin; i < end; ++i) {
      const ConvBlock block{blocks.begin(i), blocks.begin(i + 1) - blocks.begin(i), values};
      const int64_t parts = EqualParts(block.rows, kernels.most_rows).parts;
      for (int64_t part = 0; part < parts; ++part) kernels.rearrange(args, block, part);
      for (int64_t group = 0; group < groups; group += task_groups) {
        kernels.multiply(args, block, group, std::min(group + task_groups, groups),
                         values + floats);
      }
    }
  });
}

// Computes all of it. `split(tasks, work, range)` is to call range(begin, end) so that these cover
// [0, tasks), on at most `threads` threads, and to return when that is done. `memory(own, floats)`
// returns memory aligned to cache lines, for all threads or for the calling one; what is already
// there may move or vanish.
template <class Split, class Memory>
void convolve(const ConvArgs& args, const ConvKernels& kernels, int64_t threads, const Split& split,
              const Memory& memory) {
  if (args.rows == 0 || args.out_channels == 0) return;
  if (const int64_t rows = conv_own_rows(args, threads); rows > 0) {
    return convolve_apart(args, kernels, threads, rows, split, memory);
  }
  const int64_t block_rows = conv_block_rows(args);
  const EqualParts stages(args.rows, block_rows * threads);
  const int64_t groups = groups_of(args.out_channels);
  for (int64_t stage = 0; stage < stages.parts; ++stage) {
    const int64_t first = stages.begin(stage), rows = stages.begin(stage + 1) - first;
    const EqualParts blocks(rows, block_rows);
    float* const values = memory(false, conv_stage_floats(args, rows, blocks.parts));
    const auto block_at = [&](int64_t i) {
      const int64_t begin = blocks.begin(i);
      return ConvBlock{first + begin, blocks.begin(i + 1) - begin,
                       values + conv_stage_floats(args, begin, i)};
    };
    // Parts of blocks, all blocks having as many as the first one.
    const int64_t parts = EqualParts(blocks.begin(1), kernels.most_rows).parts;
    const int64_t work = rows * args.planes * args.depth * kGroup;
    split(blocks.parts * parts, work * kMove, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const ConvBlock block = block_at(i / parts);
        if (i % parts < EqualParts(block.rows, kernels.most_rows).parts) {
          kernels.rearrange(args, block, i % parts);
        }
      }
    });
    const int64_t task_groups = conv_task_groups(args, blocks.parts, threads);
    const int64_t tasks = (groups + task_groups - 1) / task_groups;
    const int64_t floats =
        task_groups * conv_products(args, blocks.begin(1)) + kernels.weights_floats;
    split(blocks.parts * tasks, work * args.out_channels, [&](int64_t begin, int64_t end) {
      float* const products = memory(true, floats);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i % tasks * task_groups;
        kernels.multiply(args, block_at(i / tasks), group, std::min(group + task_groups, groups),
                         products);
      }
    });
  }
}

}  // namespace septet
