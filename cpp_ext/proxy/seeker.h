// A request that looks for a peer: chooses one, waits for one, or pauses before it tries again.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "proxy/core.h"
#include "proxy/request_head.h"
#include "proxy/route.h"
#include "rpc/event_loop.h"
#include "rpc/server.h"

namespace mesh::proxy {

class Seeker : public Waiter {
 public:
  // Room or an endpoint may have come, or the pause is over.
  bool TryAgain() final;

 protected:
  explicit Seeker(Core& core) : core_(core), timer_([this] { TimeIsOver(); }) {}

  // Sends the request to a peer at once, or as soon as there is one.
  void Seek();
  // The same, but not before the pause that the policy wants after so many attempts. False when the request's own
  // deadline is nearer.
  [[nodiscard]] bool SeekLater(int attempts, const std::optional<rpc::EventLoop::TimePoint>& deadline);
  // The request is over: it waits for nothing any more.
  void StopSeeking();
  [[nodiscard]] bool waiting() const { return state_ == State::kWaiting; }
  // The request is sent to the peer.
  void CountAttempt(const Peer& peer);

  [[nodiscard]] virtual std::shared_ptr<Waiter> Self() = 0;
  [[nodiscard]] virtual const rpc::Metadata& metadata() const = 0;  // of the client's call
  virtual void RunAt(std::shared_ptr<Peer> peer) = 0;
  // There was no peer in time, or no room to wait.
  virtual void GiveUp(Status status) = 0;
  // The request begins or ceases to wait.
  virtual void OnWaiting(bool /*waits*/) {}

  Core& core_;
  RequestHead head_;
  Tried tried_;
  int attempts_ = 0;
  Status last_error_;

 private:
  enum class State : std::uint8_t { kIdle, kWaiting, kPausing };

  bool TryRun();
  void Wait();
  void LimitWait();
  void TimeIsOver();
  [[nodiscard]] Status NobodyThere() const;

  State state_ = State::kIdle;
  Lack lack_ = Lack::kNone;
  bool spared_ = false;                                  // an attempt went to another side
  std::optional<rpc::EventLoop::TimePoint> held_since_;  // since when it lacks a peer that could have room at all
  rpc::Timer timer_;
};

}  // namespace mesh::proxy
