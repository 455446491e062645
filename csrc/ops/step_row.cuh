// The row of coefficients that a kernel works with.
#pragma once

#include "functors/half.h"
#include "launch/cuda.cuh"
#include "ops/step.h"

namespace septet {

template <class T>
__device__ __forceinline__ StepRow<accumulator_t<T>> device_row(const StepArgs& args,
                                                                std::int64_t index) {
  using A = accumulator_t<T>;
  if (args.table == nullptr) {
    A columns[kTableColumns];
    SEPTET_UNROLL
    for (int i = 0; i < kTableColumns; ++i) columns[i] = static_cast<A>(args.inline_row[i]);
    return read_row(columns);
  }
  // A counter that ran out of the table must not go unnoticed: the result becomes NaN.
  const bool inside = index >= 0 && index < args.rows;
  StepRow<A> row =
      read_row(static_cast<const A*>(args.table) + (inside ? index : 0) * kTableColumns);
  if (!inside) row.output = static_cast<A>(NAN);
  return row;
}

}  // namespace septet
