// Transposition of small float matrices, for CPU kernels whose lanes are rows of their operands.
#pragma once

#include "launch/lanes.h"

namespace septet {
SEPTET_ISA_BEGIN

// Four rows of four at a time: narrow enough for every instruction set, and no 128-bit lane has to
// be crossed.
inline void transpose_4x4(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  using Four = NativeVector<float, 4>::type;
  using Order = NativeVector<int32_t, 4>::type;
  Four row[4];
  SEPTET_UNROLL
  for (int i = 0; i < 4; ++i) __builtin_memcpy(&row[i], from + i * from_stride, sizeof(Four));
  const Four low01 = __builtin_shuffle(row[0], row[1], Order{0, 4, 1, 5});
  const Four high01 = __builtin_shuffle(row[0], row[1], Order{2, 6, 3, 7});
  const Four low23 = __builtin_shuffle(row[2], row[3], Order{0, 4, 1, 5});
  const Four high23 = __builtin_shuffle(row[2], row[3], Order{2, 6, 3, 7});
  const Four column[4] = {__builtin_shuffle(low01, low23, Order{0, 1, 4, 5}),
                          __builtin_shuffle(low01, low23, Order{2, 3, 6, 7}),
                          __builtin_shuffle(high01, high23, Order{0, 1, 4, 5}),
                          __builtin_shuffle(high01, high23, Order{2, 3, 6, 7})};
  SEPTET_UNROLL
  for (int i = 0; i < 4; ++i) __builtin_memcpy(to + i * to_stride, &column[i], sizeof(Four));
}

// to[j][i] = from[i][j] for i < rows, j < columns; strides from row to row.
inline void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns,
                      float* to, int64_t to_stride) {
  const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int64_t i = 0; i < whole_rows; i += 4) {
    for (int64_t j = 0; j < whole_columns; j += 4) {
      transpose_4x4(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j) {
      to[j * to_stride + i] = from[i * from_stride + j];
    }
  }
}

SEPTET_ISA_END
}  // namespace septet
