// Where things are: the memory of this library and of stacks, and the source line of an address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace septet::emulation {

struct Range {
  std::uintptr_t begin = 0, end = 0;

  Range() = default;
  Range(std::uintptr_t b, std::uintptr_t e) : begin(b), end(e) {}
  Range(const void* data, std::size_t bytes)
      : begin(reinterpret_cast<std::uintptr_t>(data)), end(begin + bytes) {}
  bool contains(Range other) const { return begin <= other.begin && other.end <= end; }
};

// The segments of the library that holds the emulator and the kernels. __shared__ arrays are the
// only variables among what kernels can write to.
struct LibraryMemory {
  std::vector<Range> constant, variable;

  LibraryMemory();
};

// The stack of the calling host thread.
Range host_stack();

// "file:line" of the kernel code that an address belongs to, by addr2line; where that or the debug
// information is missing, the offset in the library.
std::string source_of(std::uintptr_t caller);

}  // namespace septet::emulation
