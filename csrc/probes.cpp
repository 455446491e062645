#include "probes.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "ops/checks.h"

namespace septet {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kIntervals = 5;
// The clock is read after so much work: long against reading it, short against an interval.
constexpr int64_t kBatchRounds = 4096;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Operations per second of the calling thread, interval by interval.
using Rates = std::array<double, kIntervals>;

Rates multiply_add_rates(double seconds) {
  Rates rates;
  float result = 0;
  for (double& rate : rates) {
    double amount = 0, elapsed = 0;
    for (const auto start = Clock::now(); elapsed < seconds / kIntervals; elapsed = since(start)) {
      amount += static_cast<double>(SEPTET_CALL_ISA(multiply_add, kBatchRounds, &result));
    }
    rate = amount / elapsed;
  }
  return rates;
}

}  // namespace

// All threads run side by side for the whole time, and none starts its clock before all run.
double fma_peak(int threads, double seconds) {
  const char* op = "fma_peak";
  require(threads >= 1 && threads <= 1024, op, "threads must lie in [1, 1024], got ", threads);
  require(seconds > 0 && seconds <= 60, op, "seconds must lie in (0, 60], got ", seconds);
  std::vector<Rates> rates(static_cast<size_t>(threads));
  std::atomic<int> waiting{threads};
  auto run = [&](size_t thread) {
    --waiting;
    while (waiting > 0) std::this_thread::yield();
    rates[thread] = multiply_add_rates(seconds);
  };
  std::vector<std::thread> pool;
  try {
    for (size_t i = 1; i < rates.size(); ++i) pool.emplace_back(run, i);
    run(0);
  } catch (...) {  // no more threads to be had: let those go that wait
    waiting = 0;
    for (std::thread& member : pool) member.join();
    throw;
  }
  for (std::thread& member : pool) member.join();
  double best = 0;
  for (size_t i = 0; i < kIntervals; ++i) {
    double sum = 0;
    for (const Rates& of_thread : rates) sum += of_thread[i];
    best = std::max(best, sum);
  }
  return best;
}

}  // namespace septet
