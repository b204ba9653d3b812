// Decompression is work on the loop, and a small message may become a large one. So all calls of a loop together may do
// a bounded amount of it per iteration, and what needs more waits here for later ones.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <memory>

#include "rpc/event_loop.h"

namespace mesh::rpc {

// Whoever has something to decompress.
class InflateWork {
 public:
  virtual ~InflateWork() = default;
  // Goes on with what the loop had no time for before.
  virtual void InflateInTurn() = 0;
};

class InflateTurns {
 public:
  explicit InflateTurns(EventLoop* loop) : loop_(loop), timer_([this] { RunWaiting(); }) {}

  // How many bytes may be read and written in this iteration still.
  [[nodiscard]] std::size_t left();
  void Spend(std::size_t bytes) { spent_ += std::max(bytes, kLeastWork); }
  // Continues the decompression in a later iteration, after those that wait already.
  void Wait(std::shared_ptr<InflateWork> work);

 private:
  // A few milliseconds.
  static constexpr std::size_t kPerIteration = 1UL << 20;
  // What beginning costs, also for an empty message.
  static constexpr std::size_t kLeastWork = 4096;

  void RunWaiting();
  void ArmForNext();

  EventLoop* const loop_;
  std::size_t spent_ = 0;
  EventLoop::TimePoint iteration_{};
  std::deque<std::shared_ptr<InflateWork>> waiting_;
  Timer timer_;
};

}  // namespace mesh::rpc
