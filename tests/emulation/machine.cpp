// Runs the threads of a block as fibers of one host thread, one block after the other.
#include "machine.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string_view>
#include <utility>

// In a section of their own, so that the detector knows what they are.
#define SEPTET_REGISTER [[gnu::section("septet_registers")]]
SEPTET_REGISTER uint3 threadIdx = {};
SEPTET_REGISTER uint3 blockIdx = {};
SEPTET_REGISTER dim3 blockDim;
SEPTET_REGISTER dim3 gridDim;

extern "C" {
[[gnu::visibility("hidden")]] extern const char __start_septet_registers[];
[[gnu::visibility("hidden")]] extern const char __stop_septet_registers[];
}

namespace septet::emulation {
namespace {

constexpr std::size_t kMaxThreads = 1024;
constexpr std::size_t kMaxSharedBytes = 227 * 1024;  // compute capability 9.0
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

}  // namespace

Emulator emulator;
thread_local bool on_fiber = false;

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

Emulator::Emulator()
    : detector_({reinterpret_cast<std::uintptr_t>(__start_septet_registers),
                 reinterpret_cast<std::uintptr_t>(__stop_septet_registers)}) {}

void Emulator::run(dim3 grid, dim3 block, std::size_t shared_bytes, const Kernel& kernel) {
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
  detector_.begin_launch();

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
  detector_.begin_block(threads, {shared, shared_bytes});
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

namespace {
void enter_fiber() {
  emulator.run_threads_forever();
}
}  // namespace

void Emulator::resume(Thread& thread) {
  if (!thread.prepared) {
    thread.context.prepare(thread.stack, enter_fiber);
    thread.prepared = true;
  }
  current_ = &thread;
  threadIdx = thread.index;
  on_fiber = true;
  scheduler_.switch_to(thread.context);
  on_fiber = false;
}

void Emulator::access(Access kind, const void* address, std::size_t bytes, const void* caller) {
  const Stack& stack = current_->stack;
  const Range locals(stack.bottom(), Stack::size());
  const Range memory(address, bytes);
  if (locals.contains(memory)) return;
  const std::string fault =
      detector_.access(kind, memory, current_->rank, reinterpret_cast<std::uintptr_t>(caller));
  if (!fault.empty()) fail(fault);
}

void Emulator::fail(const std::string& text) {
  error_ = std::make_exception_ptr(std::runtime_error("septet emulator: " + text + ", in block " +
                                                      to_string(blockIdx) + ", thread " +
                                                      std::to_string(current_->rank)));
  current_->context.switch_to(scheduler_);
  __builtin_unreachable();  // run() starts all threads over after an error
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
    fail(std::string(name(kind)) + " at " + where.file_name() + ":" + std::to_string(where.line()) +
         ": the mask must include the calling lane");
  }
  Warp& warp = warps_[thread.rank / kWarpSize];
  warp.sent[thread.lane()] = sent;
  wait(kind, mask, where);
  return warp;
}

namespace {
bool same_place(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::string_view(a.file_name()) == b.file_name());
}
}  // namespace

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
  detector_.pass_barrier();
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
  // Shuffles, votes and matrix instructions exchange registers; they order no memory.
  if (leader.kind == Rendezvous::kSyncWarp) detector_.pass_warp_barrier(first, group);
  return true;
}

namespace {
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

}  // namespace

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

}  // namespace septet::emulation
