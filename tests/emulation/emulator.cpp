// What kernels call, declared in include/emulator.h.
#include "emulator.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <mutex>
#include <string>

#include "machine.h"

namespace septet::emulation {
namespace {

std::mutex launch_mutex;

std::string at(Location where) {
  return std::string(" at ") + where.file_name() + ":" + std::to_string(where.line());
}

}  // namespace

void run(dim3 grid, dim3 block, std::size_t shared_bytes, const Kernel& kernel) {
  const std::lock_guard lock(launch_mutex);
  emulator.run(grid, block, shared_bytes, kernel);
}

int compute_capability() {
  const char* const variable = std::getenv("SEPTET_EMULATOR_CAPABILITY");
  return variable == nullptr ? 8 : std::atoi(variable);
}

std::int64_t dynamic_shared_limit() {
  const char* const variable = std::getenv("SEPTET_EMULATOR_SHARED");
  return 1024 * (variable == nullptr ? 80 : std::atoi(variable));
}

void* dynamic_shared_memory() {
  return emulator.dynamic_shared_memory();
}

void check_aligned(const void* address, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(address) % bytes == 0) return;
  emulator.fail("misaligned access of " + std::to_string(bytes) + " bytes");
}

void check_index(std::int64_t index, std::int64_t size) {
  if (index >= 0 && index < size) return;
  emulator.fail("out of bounds: index " + std::to_string(index) + " of a shared array of " +
                std::to_string(size) + " at " +
                source_of(reinterpret_cast<std::uintptr_t>(__builtin_return_address(0))));
}

void note_atomic(const void* address, std::size_t bytes) {
  emulator.access(Access::kAtomic, address, bytes, __builtin_return_address(0));
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
  if ((mask >> source_lane & 1u) == 0) {
    emulator.fail(std::string(name(kind)) + at(where) + " reads lane " +
                  std::to_string(source_lane) + ", which its mask does not name");
  }
  const bool took_part = (emulator.current().participants >> source_lane & 1u) != 0;
  return took_part ? warp.received[source_lane][0] : ~std::uint64_t{0};
}

void gather(Rendezvous kind, const Message& sent, Message (&received)[32], Location where) {
  const Warp& warp = emulator.meet_warp(kind, ~0u, sent, where);
  if (emulator.current().participants != ~0u) {
    emulator.fail(std::string(name(kind)) + at(where) + " needs all 32 lanes of a warp");
  }
  std::copy(std::begin(warp.received), std::end(warp.received), std::begin(received));
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

void copy_async(void* to, const void* from, std::size_t bytes) {
  check_aligned(to, bytes);
  check_aligned(from, bytes);
  const void* const caller = __builtin_return_address(0);
  emulator.access(Access::kBeginCopy, to, bytes, caller);
  if (from != nullptr) emulator.access(Access::kRead, from, bytes, caller);
  emulator.current().copies.add(to, from, bytes, caller);
}

void commit_copies() {
  emulator.current().copies.commit();
}

void wait_for_copies(int pending) {
  emulator.current().copies.wait(pending, [](void* to, std::size_t bytes, const void* caller) {
    emulator.access(Access::kEndCopy, to, bytes, caller);
  });
}

}  // namespace septet::emulation
