// The part of CUDA's language and library that our kernels use, for an ordinary C++ compiler.
//
// Included by csrc/launch/cuda.cuh when SEPTET_EMULATED is defined. The machine behind these
// declarations is machine.cpp; docs/emulator.md says what it can and cannot show.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// One block runs at a time, so one copy of each array is enough.
#define __shared__ static

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0 };

// Plain variables, set by the emulator whenever it switches to another thread.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

namespace septet::emulation {

using Location = std::source_location;

// The operations at which a thread waits for others. Those of a warp meet only their own kind.
enum class Rendezvous {
  kSyncThreads,
  kSyncWarp,
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kVote,
  kMatrixMultiply,
  kLoadMatrices,
};

// A reference to something callable, which unlike std::function never copies it to where the
// detector would not expect a kernel to read.
struct Kernel {
  void (*call)(const void*);
  const void* object;
  void operator()() const { call(object); }
};

// Runs `kernel` once for every thread of the grid and returns when all have ended. Throws what a
// thread throws, and std::runtime_error if a block can never continue or the detector objects.
void run(dim3 grid, dim3 block, std::size_t shared_bytes, const Kernel& kernel);

template <class F>
void run(dim3 grid, dim3 block, std::size_t shared_bytes, const F& kernel) {
  const auto call = [](const void* object) { (*static_cast<const F*>(object))(); };
  run(grid, block, shared_bytes, Kernel{call, &kernel});
}

// What the kernels of this host thread may access from now on, until all of it is forgotten. They
// are not restricted if nothing is allowed.
void allow_access(const void* data, std::size_t bytes);
void forget_operands();

// The major number, 8 unless SEPTET_EMULATOR_CAPABILITY says otherwise.
int compute_capability();

// In bytes; 80 KiB unless SEPTET_EMULATOR_SHARED gives another number of KiB.
std::int64_t dynamic_shared_limit();

void* dynamic_shared_memory();

// End the launch unless `address` is a multiple of `bytes`, or `index` is below `size`.
void check_aligned(const void* address, std::size_t bytes);
void check_index(std::int64_t index, std::int64_t size);

// Tells the detector of an atomic access.
void note_atomic(const void* address, std::size_t bytes);

// Waits for all threads of the block that have not ended.
void sync_threads(Location where);

// Waits for all lanes of `mask` that have not ended. Returns what `source_lane` sent, or all bits
// set (a NaN) if that lane took no part, where CUDA leaves the value undefined; an error if `mask`
// does not even name it.
std::uint64_t exchange(Rendezvous kind, unsigned mask, std::uint64_t sent, int source_lane,
                       Location where);

// Waits likewise; bit i of the result says whether lane i took part and voted true.
unsigned vote(unsigned mask, bool predicate, Location where);

// What a lane sends to the others of its warp.
using Message = std::array<std::uint64_t, 3>;

// Waits for the whole warp and receives what its 32 lanes have sent; an error if one has ended.
void gather(Rendezvous kind, const Message& sent, Message (&received)[32], Location where);

// The asynchronous copies of the calling thread; zeros are copied if `from` is null.
void copy_async(void* to, const void* from, std::size_t bytes);
void commit_copies();
void wait_for_copies(int pending);

int lane();

template <class T>
T shuffle(Rendezvous kind, unsigned mask, T value, int source_lane, Location where) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(kind, mask, bits, source_lane, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace septet::emulation

// ---------------------------------------------------------------------------------------------
// Synchronisation. Each call notes its place in the source, for the message about a barrier that
// the block cannot pass.
// ---------------------------------------------------------------------------------------------

inline void __syncthreads(
    septet::emulation::Location where = septet::emulation::Location::current()) {
  septet::emulation::sync_threads(where);
}

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       septet::emulation::Location where = septet::emulation::Location::current()) {
  septet::emulation::exchange(septet::emulation::Rendezvous::kSyncWarp, mask, 0,
                              septet::emulation::lane(), where);
}

// Threads of the emulator never run at the same time.
inline void __threadfence_block() {}
inline void __threadfence() {}

// ---------------------------------------------------------------------------------------------
// Shuffles and votes. `width` cuts the warp into segments; a source outside the segment gives the
// thread its own value back.
// ---------------------------------------------------------------------------------------------

template <class T>
T __shfl_sync(unsigned mask, T value, int source_lane, int width = 32,
              septet::emulation::Location where = septet::emulation::Location::current()) {
  const int segment = septet::emulation::lane() & ~(width - 1);
  return septet::emulation::shuffle(septet::emulation::Rendezvous::kShuffle, mask, value,
                                    segment | (source_lane & (width - 1)), where);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 septet::emulation::Location where = septet::emulation::Location::current()) {
  const int lane = septet::emulation::lane();
  const int source = lane - static_cast<int>(delta);
  return septet::emulation::shuffle(septet::emulation::Rendezvous::kShuffleUp, mask, value,
                                    source < (lane & ~(width - 1)) ? lane : source, where);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   septet::emulation::Location where = septet::emulation::Location::current()) {
  const int lane = septet::emulation::lane();
  const int source = lane + static_cast<int>(delta);
  return septet::emulation::shuffle(septet::emulation::Rendezvous::kShuffleDown, mask, value,
                                    source > (lane | (width - 1)) ? lane : source, where);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  septet::emulation::Location where = septet::emulation::Location::current()) {
  const int lane = septet::emulation::lane();
  const int source = lane ^ lane_mask;
  return septet::emulation::shuffle(septet::emulation::Rendezvous::kShuffleXor, mask, value,
                                    source > (lane | (width - 1)) ? lane : source, where);
}

inline unsigned __ballot_sync(
    unsigned mask, int predicate,
    septet::emulation::Location where = septet::emulation::Location::current()) {
  return septet::emulation::vote(mask, predicate != 0, where);
}

inline int __any_sync(unsigned mask, int predicate,
                      septet::emulation::Location where = septet::emulation::Location::current()) {
  return septet::emulation::vote(mask, predicate != 0, where) != 0;
}

inline int __all_sync(unsigned mask, int predicate,
                      septet::emulation::Location where = septet::emulation::Location::current()) {
  return septet::emulation::vote(mask, predicate == 0, where) == 0;
}

// ---------------------------------------------------------------------------------------------
// The rest
// ---------------------------------------------------------------------------------------------

namespace septet::emulation {

// Not instrumented: an atomic access is no plain read and write.
template <class T, class F>
[[gnu::noinline, gnu::no_sanitize("thread")]] T replace(T* address, const F& change) {
  const T old = *address;
  *address = change(old);
  return old;
}

}  // namespace septet::emulation

// Returns what was there before. CUDA has each for some types only; nvcc tells.
#define SEPTET_ATOMIC(name, expression)                                                     \
  template <class T>                                                                        \
  T name(T* address, std::type_identity_t<T> value) {                                       \
    septet::emulation::note_atomic(address, sizeof(T));                                     \
    return septet::emulation::replace(address, [value](T old) -> T { return expression; }); \
  }
SEPTET_ATOMIC(atomicAdd, old + value)
SEPTET_ATOMIC(atomicMin, value < old ? value : old)
SEPTET_ATOMIC(atomicMax, old < value ? value : old)
SEPTET_ATOMIC(atomicAnd, old& value)
SEPTET_ATOMIC(atomicOr, old | value)
SEPTET_ATOMIC(atomicExch, (static_cast<void>(old), value))
#undef SEPTET_ATOMIC

template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  septet::emulation::note_atomic(address, sizeof(T));
  return septet::emulation::replace(address,
                                    [=](T old) -> T { return old == expected ? value : old; });
}

template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}

template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
