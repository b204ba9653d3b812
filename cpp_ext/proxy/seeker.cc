#include "proxy/seeker.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "proxy/passing_on.h"
#include "proxy/sides.h"

namespace mesh::proxy {
namespace {

std::chrono::steady_clock::duration Duration(double seconds) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

bool Seeker::TryRun() {
  Found found = core_.router->Choose(head_, tried_, core_.now());
  if (found.lack == Lack::kUntried) {  // all were asked: begin again
    tried_.clear();
    found = core_.router->Choose(head_, tried_, core_.now());
  }
  lack_ = found.lack;
  if (found.peer == nullptr) return false;
  RunAt(std::move(found.peer));
  return true;
}

void Seeker::Seek() {
  if (!head_.sided) ChooseSides(core_, metadata(), &head_);
  if (TryRun()) return;
  if (lack_ == Lack::kRoom && !tried_.empty()) {  // those that were not asked yet are full: one that refused may do
    tried_.clear();
    if (TryRun()) return;
  }
  Wait();
}

bool Seeker::SeekLater(int attempts, const std::optional<rpc::EventLoop::TimePoint>& deadline) {
  const routing::Policy& policy = core_.router->policy();
  const double longest_s = std::min(policy.backoff_s * std::pow(2.0, std::min(attempts - 1, 20)), policy.backoff_max_s);
  const auto until = core_.loop->now() + Duration(longest_s * (0.5 + core_.chance() / 2));
  if (deadline && until >= *deadline) return false;
  state_ = State::kPausing;
  core_.pausing.insert(Self());
  core_.loop->Arm(&timer_, until);
  return true;
}

void Seeker::Wait() {
  // Names that nobody offers may not fill the room that others need.
  const bool crowded = lack_ == Lack::kModel && core_.waiting.half_full();
  if (lack_ == Lack::kHome || crowded) return GiveUp(NobodyThere());
  if (core_.waiting.full()) {
    core_.metrics.queue_full.Add();
    return GiveUp(core_.IsFull());
  }
  tried_.clear();  // whoever waits may go anywhere; else one with other wishes would hold up those behind it
  state_ = State::kWaiting;
  OnWaiting(true);
  core_.waiting.Enter(head_, Self());
  LimitWait();
}

void Seeker::LimitWait() {
  core_.loop->Disarm(&timer_);
  const std::optional<double> longest_s = core_.LongestWait(lack_);
  if (!longest_s) return;  // it ends with room, or with the call's own deadline
  const rpc::EventLoop::TimePoint now = core_.loop->now();
  if (!held_since_) held_since_ = now;
  // However often it comes back here, it is held no longer than once.
  core_.loop->Arm(&timer_, std::min(now + Duration(*longest_s), std::max(*held_since_ + Duration(core_.hold_s), now)));
}

bool Seeker::TryAgain() {
  if (state_ == State::kPausing) {
    state_ = State::kIdle;
    core_.loop->Disarm(&timer_);
    core_.pausing.erase(Self());
    Seek();
    return true;
  }
  if (state_ != State::kWaiting) return true;
  const Lack before = lack_;
  const bool sided = head_.sided;
  if (!sided) ChooseSides(core_, metadata(), &head_);  // it came before the splits were known
  const bool moves = !sided && !head_.sides.empty();
  state_ = State::kIdle;
  if (TryRun()) {
    core_.loop->Disarm(&timer_);
    OnWaiting(false);
    return true;
  }
  state_ = State::kWaiting;
  if (moves) core_.waiting.Enter(head_, Self());  // the line of its sides
  if (lack_ != before) LimitWait();
  return moves;
}

void Seeker::TimeIsOver() {
  const std::shared_ptr<Waiter> held = Self();
  if (state_ == State::kPausing) {
    TryAgain();
  } else if (state_ == State::kWaiting) {
    core_.waiting.Leave(head_, this);
    state_ = State::kIdle;
    GiveUp(NobodyThere());
  }
}

void Seeker::StopSeeking() {
  core_.loop->Disarm(&timer_);
  if (state_ == State::kWaiting) core_.waiting.Leave(head_, this);
  if (state_ == State::kPausing) core_.pausing.erase(Self());
  state_ = State::kIdle;
}

void Seeker::CountAttempt(const Peer& peer) {
  ++attempts_;
  core_.metrics.attempts.Add();
  if (!head_.sides.empty() && !spared_) spared_ = CountSpare(core_, head_.sides, peer.endpoint);
}

Status Seeker::NobodyThere() const {
  if (lack_ == Lack::kModel) return UnknownModel(*core_.router, core_.application, head_);
  if (lack_ == Lack::kSide) return NotOnItsSides(*core_.router, core_.application, head_);
  if (lack_ == Lack::kHome) {
    return {Code::kUnavailable, "the endpoint of " + core_.application + " that holds the sequence " + head_.sequence +
                                    " is gone, and with it the sequence's state: begin it anew"};
  }
  const std::size_t draining = core_.router->draining();
  std::string text = "no endpoint of " + core_.application + " became ready in time: ";
  text += draining > 0 ? std::to_string(draining) + " known, none takes new work" : "none is registered";
  if (!last_error_.ok()) text += "; last error: " + last_error_.message();
  return {Code::kUnavailable, text};
}

}  // namespace mesh::proxy
