#include "detector.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace septet::emulation {
namespace {

// What the kernels of this host thread may access, as allow_access() was told.
thread_local std::vector<Range> operands;

bool is_enabled() {
  const char* const variable = std::getenv("SEPTET_EMULATOR_DETECTOR");
  const std::string value = variable == nullptr ? "on" : variable;
  if (value != "on" && value != "off") {
    throw std::invalid_argument("SEPTET_EMULATOR_DETECTOR must be on or off, got " + value);
  }
  return value == "on";
}

const char* verb(Access kind) {
  switch (kind) {
    case Access::kRead:
      return "reads";
    case Access::kWrite:
      return "writes";
    case Access::kAtomic:
      return "changes atomically";
    case Access::kBeginCopy:
    case Access::kEndCopy:
      return "copies to";
  }
  return "?";
}

std::string describe(Access kind, Range memory) {
  return std::string(verb(kind)) + " " + std::to_string(memory.end - memory.begin) + " bytes of ";
}

std::string by_whom(const Moment& earlier, const Moment& now, const char* what) {
  return " thread " + std::to_string(earlier.thread) +
         (earlier.block != now.block ? " of another block " : " ") + what + " at " +
         source_of(earlier.caller);
}

}  // namespace

void allow_access(const void* data, std::size_t bytes) {
  operands.emplace_back(data, bytes);
}

void forget_operands() {
  operands.clear();
}

Detector::Detector(Range registers) : registers_(registers) {}

void Detector::begin_launch() {
  enabled_ = is_enabled();
  first_block_ = block_ + 1;
  host_stack_ = host_stack();
  if (pages_.size() <= kMostPages) return;
  pages_.clear();
  recent_ = nullptr;
}

void Detector::begin_block(std::size_t threads, Range dynamic_shared) {
  ++block_;
  epoch_ = 0;
  dynamic_shared_ = dynamic_shared;
  clocks_.assign(threads, {});
  for (std::size_t t = 0; t < threads; ++t) clocks_[t][t % kWarpSize] = 1;
}

void Detector::pass_warp_barrier(std::size_t first_thread, unsigned lanes) {
  std::array<std::uint32_t, kWarpSize> latest{};
  for (int i = 0; i < kWarpSize; ++i) {
    if ((lanes >> i & 1u) == 0) continue;
    const auto& clocks = clocks_[first_thread + i];
    for (int j = 0; j < kWarpSize; ++j) latest[j] = std::max(latest[j], clocks[j]);
  }
  for (int i = 0; i < kWarpSize; ++i) {
    if ((lanes >> i & 1u) == 0) continue;
    clocks_[first_thread + i] = latest;
    ++clocks_[first_thread + i][i];
  }
}

Detector::Memory Detector::classify(Access kind, Range memory) const {
  if (dynamic_shared_.contains(memory)) return Memory::kShared;
  const bool reads = kind == Access::kRead;
  if (reads && registers_.contains(memory)) return Memory::kLocal;
  const auto holds = [&](const Range& range) { return range.contains(memory); };
  if (std::any_of(library_.variable.begin(), library_.variable.end(), holds)) {
    return Memory::kShared;
  }
  if (reads && host_stack_.contains(memory)) return Memory::kLocal;
  if (reads && std::any_of(library_.constant.begin(), library_.constant.end(), holds)) {
    return Memory::kLocal;
  }
  const bool allowed = operands.empty() || std::any_of(operands.begin(), operands.end(), holds);
  return allowed ? Memory::kGlobal : Memory::kForeign;
}

std::string Detector::describe_foreign(Access kind, Range memory) const {
  const std::string text = "out of bounds: " + describe(kind, memory);
  constexpr std::uintptr_t kNear = 4096;
  const auto next_to = [&](const Range& range, const std::string& owner) -> std::string {
    const std::string size = std::to_string(range.end - range.begin) + " bytes";
    if (memory.end > range.end && memory.begin < range.end + kNear) {
      return text + "memory that end " + std::to_string(memory.end - range.end) + " bytes behind " +
             owner + " of " + size;
    }
    if (memory.begin < range.begin && memory.end + kNear > range.begin) {
      return text + "memory that begin " + std::to_string(range.begin - memory.begin) +
             " bytes before " + owner + " of " + size;
    }
    return "";
  };
  std::string found = next_to(dynamic_shared_, "the dynamic shared memory");
  for (const Range& operand : operands) {
    if (found.empty()) found = next_to(operand, "an operand");
  }
  return found.empty() ? text + "memory that belong to no operand" : found;
}

bool Detector::concurrent(const Moment& earlier, const Moment& now, bool shared) const {
  if (earlier.block < first_block_) return false;
  if (earlier.block != now.block) return !shared;
  if (earlier.thread == now.thread || earlier.epoch < now.epoch) return false;
  if (earlier.thread / kWarpSize != now.thread / kWarpSize) return true;
  return clocks_[now.thread][earlier.thread % kWarpSize] < earlier.clock;
}

std::string Detector::check(Cell& cell, Access kind, bool shared, const Moment& now) const {
  if (kind == Access::kEndCopy) return "";
  const auto here = [&](const char* text) {
    return std::string(verb(kind)) + " shared memory at " + source_of(now.caller) + text;
  };
  if (shared && cell.copy == block_) return here(", to which an asynchronous copy is under way");
  const bool reads = kind == Access::kRead || kind == Access::kAtomic;
  if (shared && reads && cell.write.block != block_) {
    return here(", which nobody has written in this block");
  }
  const auto race = [&](const Moment& earlier, const char* what) {
    return std::string("race on ") + (shared ? "shared" : "global") + " memory: " + verb(kind) +
           " at " + source_of(now.caller) + " what" + by_whom(earlier, now, what) +
           ", with no barrier between";
  };
  if (concurrent(cell.write, now, shared) && !(cell.write.atomic && now.atomic)) {
    return race(cell.write, cell.write.atomic ? "has changed atomically" : "has written");
  }
  if (kind == Access::kRead) return "";
  for (const Moment& read : cell.reads) {
    if (concurrent(read, now, shared)) return race(read, "has read");
  }
  return "";
}

// Two reads are kept, of different threads and if possible of different warps, so that whoever
// writes without a barrier differs from one of them.
void Detector::note(Cell& cell, Access kind, const Moment& now) {
  cell.copy = kind == Access::kBeginCopy ? now.block : 0;
  if (kind != Access::kRead) {
    cell.write = now;
    return;
  }
  Moment& latest = cell.reads[0];
  Moment& other = cell.reads[1];
  const bool other_is_worth_more = other.block == now.block && other.epoch == now.epoch &&
                                   other.thread / kWarpSize != now.thread / kWarpSize;
  const bool same_thread = latest.block == now.block && latest.thread == now.thread;
  if (!same_thread && !other_is_worth_more) other = latest;
  latest = now;
}

Detector::Cell& Detector::cell_at(std::uintptr_t address) {
  const std::uintptr_t number = address / kPage;
  if (recent_ == nullptr || recent_number_ != number) {
    std::unique_ptr<Page>& page = pages_[number];
    if (page == nullptr) page = std::make_unique<Page>();
    recent_ = page.get();
    recent_number_ = number;
  }
  return recent_->cells[address % kPage / kGranule];
}

std::string Detector::access(Access kind, Range memory, unsigned thread, std::uintptr_t caller) {
  if (!enabled_) return "";
  const Memory place = classify(kind, memory);
  if (place == Memory::kLocal) return "";
  if (place == Memory::kForeign) return describe_foreign(kind, memory) + " at " + source_of(caller);
  Moment now;
  now.block = block_;
  now.epoch = epoch_;
  now.clock = clocks_[thread][thread % kWarpSize];
  now.thread = static_cast<std::uint16_t>(thread);
  now.atomic = kind == Access::kAtomic;
  now.caller = caller;
  for (std::uintptr_t at = memory.begin / kGranule * kGranule; at < memory.end; at += kGranule) {
    Cell& cell = cell_at(at);
    const std::string fault = check(cell, kind, place == Memory::kShared, now);
    if (!fault.empty()) return fault;
    note(cell, kind, now);
  }
  return "";
}

}  // namespace septet::emulation
