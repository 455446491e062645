// Fibers: functions which can stop in the middle and go on later, each on a stack of its own.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>

#if defined(__x86_64__) && !defined(SEPTET_EMULATOR_UCONTEXT)
#define SEPTET_FIBER_ASSEMBLY
#else
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace septet::emulation {

// Memory which is committed only where touched, with an inaccessible page below it: a stack that
// overflows crashes at once instead of writing into its neighbour.
class Stack {
 public:
  Stack() {
    void* memory = mmap(nullptr, kGuard + kSize, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<std::byte*>(memory);
    mprotect(memory_, kGuard, PROT_NONE);
  }
  ~Stack() { munmap(memory_, kGuard + kSize); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  std::byte* bottom() const { return memory_ + kGuard; }
  static constexpr std::size_t size() { return kSize; }

 private:
  static constexpr std::size_t kGuard = 64 * 1024;  // A whole page even where pages are large.
  static constexpr std::size_t kSize = 256 * 1024;

  std::byte* memory_;
};

#if defined(SEPTET_FIBER_ASSEMBLY)
// Pushes what the System V ABI obliges a function to preserve, leaves the stack pointer in `*save`,
// and does the reverse on the stack `load`. swapcontext also saves the signal mask, with a system
// call that takes longer than most emulated threads.
[[gnu::naked, gnu::noinline]] inline void switch_stack(void** /*save*/, void* /*load*/) {
  asm("pushq %rbp\n\t"
      "pushq %rbx\n\t"
      "pushq %r12\n\t"
      "pushq %r13\n\t"
      "pushq %r14\n\t"
      "pushq %r15\n\t"
      "movq %rsp, (%rdi)\n\t"
      "movq %rsi, %rsp\n\t"
      "popq %r15\n\t"
      "popq %r14\n\t"
      "popq %r13\n\t"
      "popq %r12\n\t"
      "popq %rbx\n\t"
      "popq %rbp\n\t"
      "ret");
}
#endif

// Where a fiber stopped. A context made by default stands for whoever switches away first.
class Context {
 public:
  // Prepares a fiber which runs `entry` when it is first switched to. `entry` must never return.
  void prepare(const Stack& stack, void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
    bottom_ = stack.bottom();
    size_ = Stack::size();
#endif
#if defined(SEPTET_FIBER_ASSEMBLY)
    // What switch_stack expects to pop: six registers and the address to return to. The slot above
    // stands for the return address of `entry`, which the ABI wants 8 bytes off a multiple of 16.
    auto** top = reinterpret_cast<void**>(stack.bottom() + Stack::size());
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(entry);
    for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
    stack_pointer_ = top - 8;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack.bottom();
    context_.uc_stack.ss_size = Stack::size();
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  // Stops here and goes on at `next`. Returns when something switches back.
  void switch_to(Context& next) {
#if defined(__SANITIZE_ADDRESS__)
    // AddressSanitizer has to know on which stack the program is.
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, next.bottom_, next.size_);
    next.came_from_ = this;
#endif
#if defined(SEPTET_FIBER_ASSEMBLY)
    switch_stack(&stack_pointer_, next.stack_pointer_);
#else
    swapcontext(&context_, &next.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    arrived(fake_stack);
#endif
  }

#if defined(__SANITIZE_ADDRESS__)
  // Also the first thing a fresh fiber must do. Learns the bounds of the stack that was left.
  void arrived(void* fake_stack = nullptr) {
    __sanitizer_finish_switch_fiber(fake_stack, &came_from_->bottom_, &came_from_->size_);
  }
#else
  void arrived() {}
#endif

 private:
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom_ = nullptr;
  std::size_t size_ = 0;
  Context* came_from_ = nullptr;
#endif
#if defined(SEPTET_FIBER_ASSEMBLY)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
};

}  // namespace septet::emulation
