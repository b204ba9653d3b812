// The end of a connection, and what it does by the clock.
#include <algorithm>
#include <utility>

#include "http/connection.h"

namespace mesh::http {
namespace {

using TimePoint = rpc::EventLoop::TimePoint;

constexpr TimePoint kUnset{};
constexpr std::chrono::seconds kLingerTime{1};
// How long a drain waits for what may be on its way on a connection without a request. HTTP/1 cannot say "send no
// more": a request that meets the end of its connection is lost, and its client does not know whether it was taken.
constexpr std::chrono::milliseconds kDrainNotice{250};

}  // namespace

bool Connection::busy() const {
  if (state_ != State::kOpen) return false;
  const bool receiving =
      parser_.state() == RequestParser::State::kHead || parser_.state() == RequestParser::State::kBody;
  return exchange_ != nullptr || !output_.empty() || !held_.empty() || receiving || drain_notice_ != kUnset;
}

void Connection::BeginDrain() {
  if (draining_ || state_ != State::kOpen) return;
  draining_ = true;  // the next answer says that it is the last
  if (busy()) return;
  drain_notice_ = loop_.now();
  Watch();
}

// Both ways or only the client's: HTTP cannot tell, and whoever has gone wants no work done.
void Connection::ClientClosed() {
  if (exchange_ != nullptr || output_.empty()) return Close();
  client_closed_ = true;  // it may still read what was answered before
  MarkDirty();
}

void Connection::Linger() {
  // close() with unread input makes the kernel send RST, which may destroy our last bytes on their way.
  state_ = State::kLingering;
  DropExchange();
  transport_->ShutdownWrite();
  linger_until_ = loop_.now() + kLingerTime;
  Watch();
  interest_ = EPOLLIN;
  loop_.Modify(transport_->fd(), interest_, this);
  owner_->ConnectionQuiet();
}

void Connection::DropExchange() {
  owner_->context().budget->Give(held_.size());
  held_.clear();
  inflating_ = nullptr;
  if (exchange_ == nullptr) return;
  const std::shared_ptr<ExchangeImpl> gone = std::exchange(exchange_, nullptr);
  owner_->counters().calls_open.Subtract(1);
  gone->Cancel();
}

void Connection::Close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  loop_.Remove(transport_->fd(), this);
  loop_.Disarm(&watchdog_);
  loop_.Disarm(&next_turn_);
  DropExchange();
  output_.Clear();
  CountUnsent();
  owner_->Bury(this);
}

void Connection::Abort() {
  if (state_ == State::kOpen && exchange_ != nullptr && !answering_) {
    keep_alive_ = false;
    SendHead(JsonError(503, "the server stopped"), false);
    transport_->Write(&output_);
    transport_->ShutdownWrite();
  }
  Close();
}

void Connection::Watch() {
  if (state_ == State::kClosed) return;
  TimePoint next = loop_.now() + std::min(options_.idle_message_timeout, options_.clogged_timeout) / 2;
  const auto consider = [&next](TimePoint when) { next = std::min(next, when); };
  if (linger_until_ != kUnset) consider(linger_until_);
  if (drain_notice_ != kUnset) consider(drain_notice_ + kDrainNotice);
  if (head_began_ != kUnset) consider(head_began_ + options_.handshake_timeout);
  if (!busy()) consider(last_read_ + options_.idle_connection_timeout);
  // Never sooner than a millisecond from now: a limit of 0 must not spin the loop.
  loop_.Arm(&watchdog_, std::max(next, loop_.now() + std::chrono::milliseconds(1)));
}

void Connection::OnWatchdog() {
  if (!EndIfOverdue()) Watch();
}

bool Connection::EndIfOverdue() {
  const TimePoint now = loop_.now();
  const auto passed = [now](TimePoint since, auto limit) { return since != kUnset && now - since >= limit; };
  if (state_ == State::kLingering) {
    if (now < linger_until_) return false;
    Close();
    return true;
  }
  if (!output_.empty() && passed(last_moved_, options_.clogged_timeout)) {
    owner_->context().Log("connection timed out", *peer_ + ": its client takes no answers");
    owner_->counters().protocol_errors.Add(1);
    Close();
    return true;
  }
  if (passed(drain_notice_, kDrainNotice)) {
    drain_notice_ = {};
    if (!busy()) {
      Linger();
      return true;
    }
  }
  if (closing_ || exchange_ != nullptr) return false;
  if (passed(head_began_, options_.handshake_timeout)) {
    TimedOut("the head of the request took too long");
  } else if (parser_.state() == RequestParser::State::kBody && passed(last_read_, options_.idle_message_timeout)) {
    TimedOut("nothing of the request's body arrived for too long");
  } else if (!busy() && passed(last_read_, options_.idle_connection_timeout)) {
    Linger();
    return true;
  }
  return false;
}

void Connection::TimedOut(const char* why) {
  head_began_ = {};
  Refuse({408, why});
}

}  // namespace mesh::http
