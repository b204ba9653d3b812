// What a connection does by the clock: handshake limit, keepalive, stuck messages, lingering. One timer per connection,
// armed for the earliest thing that could be due and not touched by traffic.
#include <algorithm>

#include "rpc/server_connection.h"

namespace mesh::rpc {
namespace {

constexpr EventLoop::TimePoint kUnset{};
// How long the two steps of a drain may lie apart when the client does not answer.
constexpr std::chrono::seconds kDrainNotice{1};
// How long a drain waits for the first bytes of a new connection.
constexpr std::chrono::milliseconds kGreetingNotice{250};
constexpr std::uint8_t kKeepalivePing[8] = {'m', 'e', 's', 'h', 'p', 'i', 'n', 'g'};

}  // namespace

void Connection::Watch() {
  EventLoop::TimePoint next = loop_.now() + std::chrono::hours(1);
  const auto consider = [&next](EventLoop::TimePoint when) { next = std::min(next, when); };
  if (state_ == State::kClosed) return;
  if (linger_until_ != kUnset) consider(linger_until_);
  if (state_ != State::kLingering && !settings_received_) {
    consider(opened_ + options_.handshake_timeout);
  }
  if (state_ == State::kGreeting && drain_notice_ != kUnset) consider(drain_notice_ + kGreetingNotice);
  if (state_ == State::kOpen) {
    if (headers_began_ != kUnset) consider(headers_began_ + options_.handshake_timeout);
    if (drain_notice_ != kUnset) consider(drain_notice_ + kDrainNotice);
    if (ping_sent_ != kUnset) {
      consider(ping_sent_ + options_.keepalive_timeout);
    } else if (options_.keepalive_interval.count() > 0) {
      consider(last_frame_ + options_.keepalive_interval);
    }
    consider(loop_.now() + std::min(options_.idle_message_timeout, options_.clogged_timeout) / 2);
  }
  // Never sooner than a millisecond from now: a limit of 0 must not spin the loop.
  loop_.Arm(&watchdog_, std::max(next, loop_.now() + std::chrono::milliseconds(1)));
}

void Connection::OnWatchdog() {
  const EventLoop::TimePoint now = loop_.now();
  const auto passed = [now](EventLoop::TimePoint since, auto limit) { return since != kUnset && now - since >= limit; };
  if (linger_until_ != kUnset && now >= linger_until_) {
    Close("did not close in time");
    return;
  }
  if (state_ != State::kLingering && !settings_received_) {
    if (passed(opened_, options_.handshake_timeout)) {
      Fail("handshake took too long");
      return;
    }
  }
  if (state_ == State::kGreeting && passed(drain_notice_, kGreetingNotice)) {
    Close("the server drains");
    return;
  }
  if (state_ == State::kOpen) {
    if (passed(headers_began_, options_.handshake_timeout)) {
      Fail("a header block took too long");
      return;
    }
    if (ping_sent_ != kUnset && last_frame_ > ping_sent_) ping_sent_ = kUnset;
    if (passed(ping_sent_, options_.keepalive_timeout)) {
      Fail("no answer to a keepalive ping");
      return;
    }
    if (options_.keepalive_interval.count() > 0 && ping_sent_ == kUnset &&
        passed(last_frame_, options_.keepalive_interval)) {
      ping_sent_ = now;
      nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kKeepalivePing);
      MarkDirty();
    }
    if (Stalled()) {
      Fail("its client takes no answers");
      return;
    }
    if (passed(drain_notice_, kDrainNotice)) FinishDrain();
    EndIdleMessages();
  }
  Watch();
}

bool Connection::Stalled() {
  if (!clogged()) {
    clogged_since_ = kUnset;
    return false;
  }
  if (clogged_since_ == kUnset) clogged_since_ = loop_.now();
  return loop_.now() - std::max(clogged_since_, last_moved_) >= options_.clogged_timeout;
}

void Connection::Fail(const char* why) {
  owner_->counters().protocol_errors.Add(1);
  owner_->context().Log("connection timed out", *peer_ + ": " + why);
  Close(why);
}

void Connection::EndIdleMessages() {
  const EventLoop::TimePoint now = loop_.now();
  for (CallImpl* call = calls_; call != nullptr;) {
    CallImpl* following = call->next;
    if (call->receiving() && now - call->last_progress() >= options_.idle_message_timeout) {
      call->Abort({Code::kCancelled, "nothing of the request arrived for " +
                                         std::to_string(options_.idle_message_timeout.count()) + " ms"});
    }
    call = following;
  }
}

}  // namespace mesh::rpc
