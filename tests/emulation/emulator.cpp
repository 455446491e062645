// Runs the threads of a block as fibers of one host thread, one block after the other.
#include "emulator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "copies.h"
#include "fiber.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace septet::emulation {
namespace {

constexpr int kWarpSize = 32;
constexpr std::size_t kMaxThreads = 1024;
constexpr std::size_t kMaxSharedBytes = 227 * 1024;  // compute capability 9.0
constexpr std::size_t kGuardBytes = 128;
// All bits set is a NaN in every floating point format, and a bad index in every integer format.
constexpr unsigned char kPoison = 0xff;
constexpr unsigned char kGuardByte = 0xa5;

std::size_t volume(dim3 size) {
  return std::size_t{1} * size.x * size.y * size.z;
}

uint3 position(std::size_t rank, dim3 size) {
  return {static_cast<unsigned>(rank % size.x), static_cast<unsigned>(rank / size.x % size.y),
          static_cast<unsigned>(rank / size.x / size.y)};
}

std::string to_string(uint3 at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) +
         ")";
}

const char* name(Rendezvous kind) {
  switch (kind) {
    case Rendezvous::kSyncThreads:
      return "__syncthreads";
    case Rendezvous::kSyncWarp:
      return "__syncwarp";
    case Rendezvous::kShuffle:
      return "__shfl_sync";
    case Rendezvous::kShuffleUp:
      return "__shfl_up_sync";
    case Rendezvous::kShuffleDown:
      return "__shfl_down_sync";
    case Rendezvous::kShuffleXor:
      return "__shfl_xor_sync";
    case Rendezvous::kVote:
      return "a warp vote";
    case Rendezvous::kMatrixMultiply:
      return "mma";
    case Rendezvous::kLoadMatrices:
      return "ldmatrix";
  }
  return "?";
}

// In which order blocks, and the threads between two barriers, take their turns. A correct kernel
// gives the same result in every order.
class Order {
 public:
  Order() {
    const char* variable = std::getenv("SEPTET_EMULATOR_ORDER");
    const std::string value = variable == nullptr ? "forward" : variable;
    constexpr std::string_view kShuffle = "shuffle:";
    if (value == "forward") return;
    if (value == "reverse") {
      kind_ = Kind::kReverse;
    } else if (value.starts_with(kShuffle) && value.size() > kShuffle.size() &&
               value.find_first_not_of("0123456789", kShuffle.size()) == std::string::npos) {
      kind_ = Kind::kShuffled;
      random_.seed(std::strtoul(value.c_str() + kShuffle.size(), nullptr, 10));
    } else {
      throw std::invalid_argument(
          "SEPTET_EMULATOR_ORDER must be forward, reverse or shuffle:<seed>, got " + value);
    }
  }

  // Fills `ranks` with 0 ... count - 1.
  void fill(std::vector<unsigned>& ranks, std::size_t count) {
    ranks.resize(count);
    std::iota(ranks.begin(), ranks.end(), 0u);
    if (kind_ == Kind::kReverse) std::reverse(ranks.begin(), ranks.end());
    renew(ranks);
  }

  // A shuffled order is drawn anew for every block and after every barrier.
  void renew(std::vector<unsigned>& ranks) {
    if (kind_ == Kind::kShuffled) std::shuffle(ranks.begin(), ranks.end(), random_);
  }

 private:
  enum class Kind { kForward, kReverse, kShuffled };
  Kind kind_ = Kind::kForward;
  std::mt19937 random_;
};

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
  void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel);

  // Called on a fiber.
  void sync_threads(Location where) { wait(Rendezvous::kSyncThreads, 0, where); }
  const Warp& meet_warp(Rendezvous kind, unsigned mask, const Message& sent, Location where);
  Thread& current() const { return *current_; }
  void* dynamic_shared_memory() { return shared_.data(); }
  [[noreturn]] void run_threads_forever();

 private:
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

  Context scheduler_;
  Thread* current_ = nullptr;
  const std::function<void()>* kernel_ = nullptr;
  std::exception_ptr error_;
};

// One machine for all host threads, which take turns: threadIdx and static shared memory are
// global.
std::mutex launch_mutex;
Emulator emulator;

void Emulator::run(dim3 grid, dim3 block, std::size_t shared_bytes,
                   const std::function<void()>& kernel) {
  check_configuration(grid, block, shared_bytes);
  const std::size_t threads = volume(block);
  while (threads_.size() < threads) threads_.push_back(std::make_unique<Thread>());
  warps_.resize((threads + kWarpSize - 1) / kWarpSize);
  // Another line stands behind the last byte, to notice who writes there.
  shared_.resize((shared_bytes + kGuardBytes - 1) / kGuardBytes + 1);
  for (std::size_t i = 0; i < threads; ++i) {
    threads_[i]->rank = static_cast<unsigned>(i);
    threads_[i]->index = position(i, block);
  }
  blockDim = block;
  gridDim = grid;
  kernel_ = &kernel;
  error_ = nullptr;

  Order order;
  order.fill(block_order_, volume(grid));
  order.fill(thread_order_, threads);
  try {
    for (const unsigned rank : block_order_) {
      blockIdx = position(rank, grid);
      run_block(threads, shared_bytes, order);
    }
  } catch (...) {
    // The fibers that wait will not be resumed: start them over next time. What they hold in local
    // variables is not destroyed, which device code (trivial types throughout) does not notice.
    for (auto& thread : threads_) thread->prepared = false;
    throw;
  }
}

void Emulator::check_configuration(dim3 grid, dim3 block, std::size_t shared_bytes) const {
  const bool block_fits = volume(block) >= 1 && volume(block) <= kMaxThreads && block.z <= 64;
  const bool grid_fits = grid.x < 1u << 31 && grid.y < 1u << 16 && grid.z < 1u << 16;
  if (!block_fits || !grid_fits || shared_bytes > kMaxSharedBytes) {
    throw std::runtime_error("septet emulator: invalid launch configuration: grid " +
                             to_string({grid.x, grid.y, grid.z}) + ", block " +
                             to_string({block.x, block.y, block.z}) + ", " +
                             std::to_string(shared_bytes) + " bytes of shared memory");
  }
}

void Emulator::run_block(std::size_t threads, std::size_t shared_bytes, Order& order) {
  unsigned char* const shared = shared_.data()->bytes;
  unsigned char* const guard = shared + shared_bytes;
  std::fill(shared, guard, kPoison);
  std::fill(guard, guard + kGuardBytes, kGuardByte);
  for (std::size_t i = 0; i < threads; ++i) {
    threads_[i]->state = State::kReady;
    threads_[i]->copies.forget();
  }

  for (;;) {
    order.renew(thread_order_);
    bool waiting = false;
    for (const unsigned rank : thread_order_) {
      Thread& thread = *threads_[rank];
      if (thread.state == State::kReady) resume(thread);
      if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      waiting |= thread.state == State::kWaiting;
    }
    if (!waiting) break;
    if (!release_block(threads) && !release_warps(threads)) report_stuck(threads);
  }

  if (std::any_of(guard, guard + kGuardBytes, [](unsigned char b) { return b != kGuardByte; })) {
    throw std::runtime_error("septet emulator: block " + to_string(blockIdx) +
                             " wrote past its dynamic shared memory of " +
                             std::to_string(shared_bytes) + " bytes");
  }
}

void enter_fiber() {
  emulator.run_threads_forever();
}

void Emulator::resume(Thread& thread) {
  if (!thread.prepared) {
    thread.context.prepare(thread.stack, enter_fiber);
    thread.prepared = true;
  }
  current_ = &thread;
  threadIdx = thread.index;
  scheduler_.switch_to(thread.context);
}

// The body of a fiber. It serves the thread of its rank in every block and every launch.
void Emulator::run_threads_forever() {
  Thread& thread = *current_;
  thread.context.arrived();
  for (;;) {
    try {
      (*kernel_)();
    } catch (...) {
      error_ = std::current_exception();
    }
    thread.state = State::kEnded;
    thread.context.switch_to(scheduler_);
  }
}

void Emulator::wait(Rendezvous kind, unsigned mask, Location where) {
  Thread& thread = *current_;
  thread.state = State::kWaiting;
  thread.kind = kind;
  thread.mask = mask;
  thread.where = where;
  thread.context.switch_to(scheduler_);
}

const Warp& Emulator::meet_warp(Rendezvous kind, unsigned mask, const Message& sent,
                                Location where) {
  const Thread& thread = *current_;
  if ((mask >> thread.lane() & 1u) == 0) {
    throw std::runtime_error(std::string("septet emulator: ") + name(kind) + " at " +
                             where.file_name() + ":" + std::to_string(where.line()) +
                             ": the mask must include the calling lane, in block " +
                             to_string(blockIdx) + ", thread " + std::to_string(thread.rank));
  }
  Warp& warp = warps_[thread.rank / kWarpSize];
  warp.sent[thread.lane()] = sent;
  wait(kind, mask, where);
  return warp;
}

bool same_place(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::string_view(a.file_name()) == b.file_name());
}

// CUDA counts a thread that has ended as one that has arrived. It leaves undefined what happens
// when threads meet in different calls of __syncthreads; here the block is then stuck.
bool Emulator::release_block(std::size_t threads) {
  const Thread* first = nullptr;
  for (std::size_t i = 0; i < threads; ++i) {
    const Thread& thread = *threads_[i];
    if (thread.state == State::kEnded) continue;
    if (thread.kind != Rendezvous::kSyncThreads) return false;
    if (first != nullptr && !same_place(first->where, thread.where)) return false;
    if (first == nullptr) first = &thread;
  }
  for (std::size_t i = 0; i < threads; ++i) {
    if (threads_[i]->state == State::kWaiting) threads_[i]->state = State::kReady;
  }
  return true;
}

bool Emulator::release_warps(std::size_t threads) {
  bool released = false;
  for (std::size_t first = 0; first < threads; first += kWarpSize) {
    const std::size_t lanes = std::min<std::size_t>(kWarpSize, threads - first);
    unsigned alive = 0;
    for (std::size_t i = 0; i < lanes; ++i) {
      if (threads_[first + i]->state != State::kEnded) alive |= 1u << i;
    }
    unsigned refused = 0;
    for (std::size_t i = 0; i < lanes; ++i) {
      const Thread& thread = *threads_[first + i];
      if (thread.state != State::kWaiting || thread.kind == Rendezvous::kSyncThreads) continue;
      if ((refused >> i & 1u) != 0) continue;
      const unsigned group = thread.mask & alive;
      if (release_group(first, group, thread)) {
        released = true;
      } else {
        refused |= group;
      }
    }
  }
  return released;
}

// Lets the lanes of `group` go on if all of them have come to the rendezvous of `leader`.
bool Emulator::release_group(std::size_t first, unsigned group, const Thread& leader) {
  for (int i = 0; i < kWarpSize; ++i) {
    if ((group >> i & 1u) == 0) continue;
    const Thread& thread = *threads_[first + i];
    const bool met =
        thread.state == State::kWaiting && thread.kind == leader.kind && thread.mask == leader.mask;
    if (!met) return false;
  }
  Warp& warp = warps_[first / kWarpSize];
  for (int i = 0; i < kWarpSize; ++i) {
    if ((group >> i & 1u) == 0) continue;
    Thread& thread = *threads_[first + i];
    warp.received[i] = warp.sent[i];
    thread.participants = group;
    thread.state = State::kReady;
  }
  return true;
}

std::string describe_wait(const Thread& thread) {
  if (thread.state == State::kEnded) return "have ended";
  std::string text = std::string("wait in ") + name(thread.kind) + " at " +
                     thread.where.file_name() + ":" + std::to_string(thread.where.line());
  if (thread.kind != Rendezvous::kSyncThreads) {
    char mask[16];
    std::snprintf(mask, sizeof(mask), "0x%08x", thread.mask);
    text += std::string(" with mask ") + mask;
  }
  return text;
}

void Emulator::report_stuck(std::size_t threads) const {
  std::string text = "septet emulator: block " + to_string(blockIdx) + " can never continue:";
  for (std::size_t begin = 0, end = 0; begin < threads; begin = end) {
    const std::string state = describe_wait(*threads_[begin]);
    while (end < threads && describe_wait(*threads_[end]) == state) ++end;
    text += (begin == 0 ? " threads " : "; threads ") + std::to_string(begin) + " to " +
            std::to_string(end - 1) + " " + state;
  }
  throw std::runtime_error(text);
}

}  // namespace

void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel) {
  const std::lock_guard lock(launch_mutex);
  emulator.run(grid, block, shared_bytes, kernel);
}

int compute_capability() {
  const char* const variable = std::getenv("SEPTET_EMULATOR_CAPABILITY");
  return variable == nullptr ? 8 : std::atoi(variable);
}

void* dynamic_shared_memory() {
  return emulator.dynamic_shared_memory();
}

void check_aligned(const void* address, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0) {
    throw std::runtime_error("septet emulator: misaligned access of " + std::to_string(bytes) +
                             " bytes, in block " + to_string(blockIdx) + ", thread " +
                             std::to_string(emulator.current().rank));
  }
}

void sync_threads(Location where) {
  emulator.sync_threads(where);
}

int lane() {
  return emulator.current().lane();
}

std::uint64_t exchange(Rendezvous kind, unsigned mask, std::uint64_t sent, int source_lane,
                       Location where) {
  const Warp& warp = emulator.meet_warp(kind, mask, {sent}, where);
  const bool took_part = (emulator.current().participants >> source_lane & 1u) != 0;
  return took_part ? warp.received[source_lane][0] : ~std::uint64_t{0};
}

const Message* gather(Rendezvous kind, const Message& sent, Location where) {
  const Warp& warp = emulator.meet_warp(kind, ~0u, sent, where);
  if (emulator.current().participants != ~0u) {
    throw std::runtime_error(std::string("septet emulator: ") + name(kind) +
                             " needs all 32 lanes of a warp, in block " + to_string(blockIdx) +
                             ", thread " + std::to_string(emulator.current().rank));
  }
  return warp.received;
}

void copy_async(void* to, const void* from, std::size_t bytes) {
  check_aligned(to, bytes);
  check_aligned(from, bytes);
  emulator.current().copies.add(to, from, bytes);
}

void commit_copies() {
  emulator.current().copies.commit();
}

void wait_for_copies(int pending) {
  emulator.current().copies.wait(pending);
}

unsigned vote(unsigned mask, bool predicate, Location where) {
  const Warp& warp = emulator.meet_warp(Rendezvous::kVote, mask, {predicate}, where);
  const unsigned participants = emulator.current().participants;
  unsigned votes = 0;
  for (int i = 0; i < kWarpSize; ++i) {
    if ((participants >> i & 1u) != 0 && warp.received[i][0] != 0) votes |= 1u << i;
  }
  return votes;
}

}  // namespace septet::emulation
