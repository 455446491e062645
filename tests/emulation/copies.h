// The asynchronous copies of one thread of the emulator.
//
// They happen at the very last moment that the program allows, so that whoever reads without having
// waited finds what was there before: NaN, in dynamic shared memory that nobody has written to.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

namespace septet::emulation {

class AsyncCopies {
 public:
  // Copies nothing but zeros if `from` is null.
  void add(void* to, const void* from, std::size_t bytes, const void* caller) {
    copies_.push_back({to, from, bytes, caller, group_});
  }
  void commit() { ++group_; }

  // Finishes all committed groups but the last `pending`; `finished` hears of each copy.
  template <class F>
  void wait(int pending, const F& finished) {
    std::vector<Copy> left;
    for (const Copy& copy : copies_) {
      if (copy.group >= group_ - pending) {
        left.push_back(copy);
        continue;
      }
      finished(copy.to, copy.bytes, copy.caller);
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, copy.bytes);
      } else {
        std::memcpy(copy.to, copy.from, copy.bytes);
      }
    }
    copies_.swap(left);
  }
  void forget() { copies_.clear(); }

 private:
  struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
    const void* caller;
    long group;
  };

  std::vector<Copy> copies_;
  long group_ = 0;
};

}  // namespace septet::emulation
