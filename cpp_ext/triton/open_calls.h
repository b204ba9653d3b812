// Counts what Triton still owes to calls, by their models.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string_view>

#include "common/poll.h"

namespace mesh::triton {

// Calls are counted apart for those before and after the last wait. Models whose names share a slot wait for each
// other. Thread-safe; counting takes no lock.
class OpenCalls {
 public:
  using Count = std::atomic<std::uint64_t>;
  using Deadline = std::chrono::steady_clock::time_point;
  static constexpr std::size_t kSlots = 64;
  static constexpr std::size_t kAll = kSlots;

  static std::size_t SlotOf(std::string_view model) { return std::hash<std::string_view>()(model) % kSlots; }

  // Where a call of the slot that begins now is counted, until it has ended.
  Count& Begun(std::size_t slot) { return counts_[slot][epoch_.load(std::memory_order_relaxed)]; }

  // Until no call of the slot, or of any, that had begun before is open. False when that is not so by `until`.
  [[nodiscard]] bool Wait(std::size_t slot, Deadline until) {
    const std::unique_lock<std::timed_mutex> waiting(mutex_, until);
    if (!waiting.owns_lock()) return false;
    // Twice, because a call that read the epoch just before it changed may count itself afterwards.
    for (int turn = 0; turn < 2; ++turn) {
      const std::size_t before = epoch_.fetch_xor(1);
      if (!PollUntil(until, [&] { return None(slot, before); })) return false;
    }
    return true;
  }

 private:
  [[nodiscard]] bool None(std::size_t slot, std::size_t epoch) const {
    if (slot != kAll) return counts_[slot][epoch].load() == 0;
    for (const std::array<Count, 2>& one : counts_) {
      if (one[epoch].load() != 0) return false;
    }
    return true;
  }

  std::array<std::array<Count, 2>, kSlots> counts_{};
  std::atomic<std::size_t> epoch_{0};
  std::timed_mutex mutex_;
};

}  // namespace mesh::triton
