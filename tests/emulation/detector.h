// Finds races between threads and accesses to memory that is not the kernel's, from the addresses
// that a kernel touches and the barriers that it passes. docs/emulator.md explains the rules.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator.h"
#include "places.h"

namespace septet::emulation {

inline constexpr int kWarpSize = 32;

enum class Access { kRead, kWrite, kAtomic, kBeginCopy, kEndCopy };

// Who accessed memory, and when. Barriers of the block count epochs; the clock counts those
// __syncwarp() that a lane took part in.
struct Moment {
  std::uint32_t block = 0;  // counted over all launches; 0: never
  std::uint32_t epoch = 0;
  std::uint32_t clock = 0;
  std::uint16_t thread = 0;
  bool atomic = false;
  std::uintptr_t caller = 0;
};

class Detector {
 public:
  // `registers` are the variables of the emulator that kernels read, such as threadIdx.
  Detector(Range registers);

  void begin_launch();
  void begin_block(std::size_t threads, Range dynamic_shared);
  void pass_barrier() { ++epoch_; }
  // Orders what the lanes of a warp did before against what they do now.
  void pass_warp_barrier(std::size_t first_thread, unsigned lanes);

  // Notes an access of `thread` to what is not its stack. Returns what is wrong with it, or
  // nothing.
  std::string access(Access kind, Range memory, unsigned thread, std::uintptr_t caller);

 private:
  // What is known about kGranule neighbouring bytes.
  struct Cell {
    Moment write;
    Moment reads[2];         // of different threads, where two have read
    std::uint32_t copy = 0;  // the block whose asynchronous copy to here is under way
  };
  static constexpr std::uintptr_t kGranule = 2;
  static constexpr std::uintptr_t kPage = 4096;
  struct Page {
    Cell cells[kPage / kGranule];
  };
  static constexpr std::size_t kMostPages = 1024;

  enum class Memory { kLocal, kShared, kGlobal, kForeign };

  Memory classify(Access kind, Range memory) const;
  std::string describe_foreign(Access kind, Range memory) const;
  std::string check(Cell& cell, Access kind, bool shared, const Moment& now) const;
  bool concurrent(const Moment& earlier, const Moment& now, bool shared) const;
  static void note(Cell& cell, Access kind, const Moment& now);
  Cell& cell_at(std::uintptr_t address);

  bool enabled_ = true;
  Range registers_;
  Range dynamic_shared_;
  Range host_stack_;  // where launch() keeps the arguments of the kernel
  LibraryMemory library_;

  std::uint32_t block_ = 0;
  std::uint32_t first_block_ = 0;  // of this launch
  std::uint32_t epoch_ = 0;
  // clocks_[t][lane]: up to which clock of a lane of its warp everything is ordered before thread t
  std::vector<std::array<std::uint32_t, kWarpSize>> clocks_;

  std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages_;
  std::uintptr_t recent_number_ = 0;
  Page* recent_ = nullptr;
};

}  // namespace septet::emulation
