// The memory of received messages, and its bound over all connections of a server.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>

#include "common/status.h"
#include "rpc/message.h"

namespace mesh::rpc {

// Bounds what all received messages of a server take at one time: those that are half received, being decompressed,
// waiting for their handler, and, from kUnbudgeted bytes on, those that handlers still hold.
class ReceiveBudget : public std::enable_shared_from_this<ReceiveBudget> {
 public:
  // Smaller messages are counted only while they wait: how many calls run is limited already.
  static constexpr std::size_t kUnbudgeted = 64UL * 1024;

  explicit ReceiveBudget(std::size_t limit) : limit_(limit) {}
  [[nodiscard]] bool Take(std::size_t bytes) {
    if (used_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= limit_) return true;
    Give(bytes);
    return false;
  }
  // The same, but leaves half of the budget to those that need it.
  [[nodiscard]] bool TakeSpare(std::size_t bytes) {
    if (used_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= limit_ / 2) return true;
    Give(bytes);
    return false;
  }
  void Give(std::size_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  [[nodiscard]] std::size_t limit() const { return limit_; }
  [[nodiscard]] std::size_t used() const { return used_.load(std::memory_order_relaxed); }
  // RESOURCE_EXHAUSTED: "no room for <what>: received messages hold 900 of 1000 bytes; try again later".
  [[nodiscard]] Status Full(const std::string& what) const;

 private:
  const std::size_t limit_;
  std::atomic<std::size_t> used_{0};
};

// One contiguous allocation that grows with what arrives.
class ReceiveBuffer {
 public:
  enum class Outcome { kOk, kBudgetFull, kNoMemory };

  // `budget` may be null; else it must outlive the buffer and belong to a shared_ptr, which detached slices keep.
  explicit ReceiveBuffer(ReceiveBudget* budget) : budget_(budget) {}
  ~ReceiveBuffer() { Release(); }
  ReceiveBuffer(const ReceiveBuffer&) = delete;
  ReceiveBuffer& operator=(const ReceiveBuffer&) = delete;

  // Makes room for `bytes`, and a little more, but for no more than `most`.
  [[nodiscard]] Outcome Grow(std::size_t bytes, std::size_t most);
  // Counts it from now on, however small it is.
  [[nodiscard]] bool Count();
  // The status for a failure of the two.
  [[nodiscard]] Status Failure(Outcome outcome, const std::string& what) const;

  [[nodiscard]] char* data() { return data_; }
  [[nodiscard]] std::size_t capacity() const { return capacity_; }
  // The first `size` bytes; the buffer is empty afterwards. Large ones stay counted until their last slice is gone.
  [[nodiscard]] Slice Detach(std::size_t size);
  void Release();

 private:
  [[nodiscard]] bool Reallocate(std::size_t wanted, std::size_t most);
  [[nodiscard]] bool TakeLarge(std::size_t wanted, std::size_t most);
  void ShrinkTo(std::size_t size);
  void GiveBack(std::size_t bytes);

  ReceiveBudget* const budget_;
  char* data_ = nullptr;  // of malloc, or a large block where the capacity says so
  std::size_t capacity_ = 0;
  std::size_t counted_ = 0;
};

}  // namespace mesh::rpc
