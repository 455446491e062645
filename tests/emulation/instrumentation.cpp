// What g++ -fsanitize=thread calls before every access to memory that others may see. The kernels
// are compiled with it but not linked with its runtime: these functions take its place.
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "machine.h"

namespace {

using septet::emulation::Access;

inline void note(Access kind, const void* address, std::size_t bytes, const void* caller) {
  if (septet::emulation::on_fiber) {
    septet::emulation::emulator.access(kind, address, bytes, caller);
  }
}

}  // namespace

extern "C" {

void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define SEPTET_ACCESS(name, kind, bytes)                             \
  void __tsan_##name##bytes(const void* address) {                   \
    note(Access::kind, address, bytes, __builtin_return_address(0)); \
  }                                                                  \
  void __tsan_unaligned_##name##bytes(const void* address) {         \
    note(Access::kind, address, bytes, __builtin_return_address(0)); \
  }
#define SEPTET_ACCESSES(name, kind) \
  SEPTET_ACCESS(name, kind, 1)      \
  SEPTET_ACCESS(name, kind, 2)      \
  SEPTET_ACCESS(name, kind, 4)      \
  SEPTET_ACCESS(name, kind, 8)      \
  SEPTET_ACCESS(name, kind, 16)
SEPTET_ACCESSES(read, kRead)
SEPTET_ACCESSES(write, kWrite)

void __tsan_read_range(const void* address, std::size_t bytes) {
  note(Access::kRead, address, bytes, __builtin_return_address(0));
}
void __tsan_write_range(const void* address, std::size_t bytes) {
  note(Access::kWrite, address, bytes, __builtin_return_address(0));
}

// Atomic operations of the host code around the kernels, such as reference counts. Kernels use
// CUDA's functions instead.
#define SEPTET_ATOMIC_FETCH(T, bits, name)                             \
  T __tsan_atomic##bits##_fetch_##name(volatile T* at, T value, int) { \
    return __atomic_fetch_##name(at, value, __ATOMIC_SEQ_CST);         \
  }
#define SEPTET_ATOMIC_COMPARE(T, bits, name)                                                   \
  int __tsan_atomic##bits##_compare_exchange_##name(volatile T* at, T* expected, T value, int, \
                                                    int) {                                     \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST,           \
                                       __ATOMIC_SEQ_CST);                                      \
  }
#define SEPTET_ATOMICS(T, bits)                                    \
  T __tsan_atomic##bits##_load(const volatile T* at, int) {        \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                  \
  }                                                                \
  void __tsan_atomic##bits##_store(volatile T* at, T value, int) { \
    __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                 \
  }                                                                \
  T __tsan_atomic##bits##_exchange(volatile T* at, T value, int) { \
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);       \
  }                                                                \
  SEPTET_ATOMIC_FETCH(T, bits, add)                                \
  SEPTET_ATOMIC_FETCH(T, bits, sub)                                \
  SEPTET_ATOMIC_FETCH(T, bits, and)                                \
  SEPTET_ATOMIC_FETCH(T, bits, or)                                 \
  SEPTET_ATOMIC_COMPARE(T, bits, strong)                           \
  SEPTET_ATOMIC_COMPARE(T, bits, weak)
SEPTET_ATOMICS(std::uint8_t, 8)
SEPTET_ATOMICS(std::uint16_t, 16)
SEPTET_ATOMICS(std::uint32_t, 32)
SEPTET_ATOMICS(std::uint64_t, 64)

void __tsan_atomic_thread_fence(int) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

}  // extern "C"
