// The machine behind include/emulator.h: blocks, warps and threads.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "copies.h"
#include "detector.h"
#include "emulator.h"
#include "fiber.h"
#include "order.h"

namespace septet::emulation {

enum class State { kReady, kWaiting, kEnded };

struct Thread {
  Stack stack;
  Context context;
  bool prepared = false;

  uint3 index{};
  unsigned rank = 0;
  State state = State::kEnded;

  // The rendezvous at which the thread waits.
  Rendezvous kind{};
  unsigned mask = 0;
  Location where;
  unsigned participants = 0;  // set when the lanes of a warp meet

  AsyncCopies copies;

  int lane() const { return static_cast<int>(rank % kWarpSize); }
};

// What the lanes of a warp sent in the exchange under way, and in the one that they met in last.
// Two arrays, since a lane may send again before its neighbours have read.
struct Warp {
  Message sent[kWarpSize];
  Message received[kWarpSize];
};

class Emulator {
 public:
  Emulator();
  void run(dim3 grid, dim3 block, std::size_t shared_bytes, const Kernel& kernel);

  // Called on a fiber.
  void sync_threads(Location where) { wait(Rendezvous::kSyncThreads, 0, where); }
  const Warp& meet_warp(Rendezvous kind, unsigned mask, const Message& sent, Location where);
  Thread& current() const { return *current_; }
  void* dynamic_shared_memory() { return shared_.data(); }
  // Reports what the thread reads or writes to the detector, which may end the launch.
  void access(Access kind, const void* address, std::size_t bytes, const void* caller);
  // Ends the launch with "septet emulator: `text`, in block ..., thread ...". It does not throw,
  // since a compiler believes that of the functions which instrumented code calls.
  [[noreturn]] void fail(const std::string& text);
  [[noreturn]] void run_threads_forever();

 private:
  static constexpr std::size_t kGuardBytes = 128;
  struct alignas(kGuardBytes) Line {
    unsigned char bytes[kGuardBytes];
  };

  void check_configuration(dim3 grid, dim3 block, std::size_t shared_bytes) const;
  void run_block(std::size_t threads, std::size_t shared_bytes, Order& order);
  void resume(Thread& thread);
  void wait(Rendezvous kind, unsigned mask, Location where);
  bool release_block(std::size_t threads);
  bool release_warps(std::size_t threads);
  bool release_group(std::size_t first, unsigned group, const Thread& leader);
  [[noreturn]] void report_stuck(std::size_t threads) const;

  std::vector<std::unique_ptr<Thread>> threads_;  // kept between launches, for their stacks
  std::vector<Warp> warps_;
  std::vector<Line> shared_;
  std::vector<unsigned> block_order_;
  std::vector<unsigned> thread_order_;
  Detector detector_;

  Context scheduler_;
  Thread* current_ = nullptr;
  const Kernel* kernel_ = nullptr;
  std::exception_ptr error_;
};

// One machine for all host threads, which take turns: threadIdx and static shared memory are
// global.
extern Emulator emulator;

// Whether this host thread is on a fiber, and so whether what it accesses concerns the detector.
extern thread_local bool on_fiber;

std::string to_string(uint3 at);
const char* name(Rendezvous kind);

}  // namespace septet::emulation
