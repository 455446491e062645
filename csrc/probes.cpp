#include "probes.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "ops/checks.h"

namespace septet {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kIntervals = 5;
// The clock is read after about so much work: long against reading it, short against an interval.
constexpr int64_t kBatchBytes = int64_t{1} << 19;
constexpr int64_t kBatchRounds = 4096;
constexpr int64_t kMaxBytes = int64_t{1} << 34;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void check(const char* op, int threads, double seconds) {
  require(threads >= 1 && threads <= 1024, op, "threads must lie in [1, 1024], got ", threads);
  require(seconds > 0 && seconds <= 60, op, "seconds must lie in (0, 60], got ", seconds);
}

// One thread's buffers. They begin half a page apart, since loads that match a recent store in the
// lower 12 bits of the address wait for it.
class CopyWork {
 public:
  explicit CopyWork(int64_t count)
      : count_(count),
        apart_((count + kPage - 1) / kPage * kPage + kPage / 2),
        buffer_(new float[static_cast<size_t>(size())]) {
    const auto address = reinterpret_cast<uintptr_t>(buffer_.get()) / sizeof(float);
    from_ = buffer_.get() + (kPage - address % kPage) % kPage;
  }

  // By the thread that uses them, so that they lie in its memory.
  void touch() { std::memset(buffer_.get(), 0, sizeof(float) * static_cast<size_t>(size())); }

  double batch() {
    const int64_t moved = 2 * count_ * static_cast<int64_t>(sizeof(float));
    const int64_t repeats = std::max<int64_t>(1, kBatchBytes / moved);
    for (int64_t i = 0; i < repeats; ++i) {
      SEPTET_CALL_ISA(copy_floats, from_, from_ + apart_, count_);
    }
    return static_cast<double>(repeats * moved);
  }

 private:
  static constexpr int64_t kPage = 4096 / sizeof(float);

  int64_t size() const { return kPage + apart_ + count_; }

  int64_t count_, apart_;
  std::unique_ptr<float[]> buffer_;
  float* from_;
};

class MultiplyAddWork {
 public:
  void touch() {}
  double batch() {
    return static_cast<double>(SEPTET_CALL_ISA(multiply_add, kBatchRounds, &result_));
  }

 private:
  float result_ = 0;
};

using Rates = std::array<double, kIntervals>;

template <class Work>
Rates measure(Work& work, double seconds) {
  Rates rates;
  for (double& rate : rates) {
    double amount = 0, elapsed = 0;
    for (const auto start = Clock::now(); elapsed < seconds / kIntervals; elapsed = since(start)) {
      amount += work.batch();
    }
    rate = amount / elapsed;
  }
  return rates;
}

// Runs the work of every thread side by side for the whole time; returns the sum of their rates in
// the best interval. Memory is touched and all threads run before the clock starts.
template <class Work, class... Arguments>
double best_rate(int threads, double seconds, Arguments... arguments) {
  std::vector<Work> works;
  for (int i = 0; i < threads; ++i) works.emplace_back(arguments...);
  std::vector<Rates> rates(works.size());
  std::atomic<int> waiting{threads};
  auto run = [&](size_t thread) {
    works[thread].touch();
    works[thread].batch();
    --waiting;
    while (waiting > 0) std::this_thread::yield();
    rates[thread] = measure(works[thread], seconds);
  };
  std::vector<std::thread> pool;
  try {
    for (size_t i = 1; i < works.size(); ++i) pool.emplace_back(run, i);
    run(0);
  } catch (...) {  // no more threads to be had: let those go that wait
    waiting = 0;
    for (std::thread& member : pool) member.join();
    throw;
  }
  for (std::thread& member : pool) member.join();
  double best = 0;
  for (int i = 0; i < kIntervals; ++i) {
    double sum = 0;
    for (const Rates& of_thread : rates) sum += of_thread[static_cast<size_t>(i)];
    best = std::max(best, sum);
  }
  return best;
}

}  // namespace

double copy_bandwidth(int64_t bytes, int threads, double seconds) {
  const char* op = "copy_bandwidth";
  check(op, threads, seconds);
  require(bytes >= 1 && bytes <= kMaxBytes, op, "bytes must lie in [1, 2**34], got ", bytes);
  const int64_t floats = bytes / 2 / static_cast<int64_t>(sizeof(float)) / threads;
  const int64_t count = std::max(kCopyBlock, floats / kCopyBlock * kCopyBlock);
  return best_rate<CopyWork>(threads, seconds, count);
}

double fma_peak(int threads, double seconds) {
  check("fma_peak", threads, seconds);
  return best_rate<MultiplyAddWork>(threads, seconds);
}

}  // namespace septet
