// What the instructions behind csrc/launch/mma.cuh do, written after the PTX ISA ("Matrix Fragments
// for mma.m16n8k16", "ldmatrix", "cp.async"), lane by lane.
//
// Included by mma.cuh, which has declared float16 and bfloat16.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "emulator.h"

namespace septet::emulation {

template <class T>
float half_of(std::uint64_t pair, int index) {
  T value;
  value.bits = static_cast<std::uint16_t>(pair >> (16 * index));
  return to_float(value);
}

// Every lane shows its fragments to the others, then computes the four sums that it holds.
// Hardware adds the products in an order, and with a rounding, that NVIDIA leaves open.
template <class T>
void multiply_matrices(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                       Location where = Location::current()) {
  const auto pair = [](std::uint32_t low, std::uint32_t high) {
    return low | std::uint64_t{high} << 32;
  };
  Message lanes[32];
  gather(Rendezvous::kMatrixMultiply, {pair(a[0], a[1]), pair(a[2], a[3]), pair(b[0], b[1])}, lanes,
         where);
  const auto a_at = [&](int row, int k) {
    const Message& owner = lanes[4 * (row % 8) + k % 8 / 2];
    const std::uint64_t registers = owner[k / 8];
    return half_of<T>(registers >> (row < 8 ? 0 : 32), k % 2);
  };
  const auto b_at = [&](int k, int column) {
    const Message& owner = lanes[4 * column + k % 8 / 2];
    return half_of<T>(owner[2] >> (k < 8 ? 0 : 32), k % 2);
  };
  const int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = i < 2 ? g : g + 8, column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) c[i] += a_at(row, k) * b_at(k, column);
  }
}

template <bool kTransposed>
void load_matrices(std::uint32_t (&matrices)[4], const void* row,
                   Location where = Location::current()) {
  check_aligned(row, 16);
  Message lanes[32];
  gather(Rendezvous::kLoadMatrices, {reinterpret_cast<std::uintptr_t>(row), 0, 0}, lanes, where);
  const int g = lane() / 4, t = lane() % 4;
  for (int m = 0; m < 4; ++m) {
    const auto at = [&](int i, int j) {
      std::uint16_t value;
      const auto* start = reinterpret_cast<const std::uint16_t*>(lanes[8 * m + i][0]);
      std::memcpy(&value, start + j, sizeof(value));
      return std::uint32_t{value};
    };
    matrices[m] =
        kTransposed ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
  }
}

}  // namespace septet::emulation
