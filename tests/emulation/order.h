// In which order blocks, and the threads between two barriers, take their turns.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace septet::emulation {

// SEPTET_EMULATOR_ORDER. A correct kernel gives the same result in every order.
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

}  // namespace septet::emulation
