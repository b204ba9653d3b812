#include "proxy/forwarded_call.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "proxy/passing_on.h"
#include "proxy/shadow.h"
#include "routing/verdict.h"

namespace mesh::proxy {

using routing::Fault;
using routing::Next;
using routing::Verdict;

// The request at one peer. Lives until its channel has said how it ended.
class ForwardedCall::Attempt final : public RunningCall, public std::enable_shared_from_this<Attempt> {
 public:
  Attempt(std::shared_ptr<ForwardedCall> owner, std::shared_ptr<Peer> peer, double now)
      : owner_(std::move(owner)), peer_(peer), slot_(std::make_unique<Slot>(std::move(peer), this, now)) {}

  void Send(const std::string& path, rpc::Message message, rpc::CallOptions options) {
    rpc::StreamCallbacks callbacks;
    callbacks.on_message = [self = shared_from_this()](rpc::Slice message) {
      self->answer_ = std::move(message);
      ++self->messages_;
    };
    callbacks.on_done = [self = shared_from_this()](Status status, rpc::Metadata trailers) {
      self->Done(std::move(status), std::move(trailers));
    };
    upstream_ = peer_->channel->Ask(path, std::move(message), std::move(options), std::move(callbacks));
  }

  // Nobody waits for the answer any more.
  void Drop() {
    owner_ = nullptr;
    slot_ = nullptr;
    upstream_->Cancel();
  }

  void PeerHangs() override {
    hung_ = true;
    upstream_->Cancel();
    Done({Code::kUnavailable, "it does not answer, not even whether it is live"}, {});
  }

  [[nodiscard]] Peer& peer() const { return *peer_; }
  [[nodiscard]] bool hung() const { return hung_; }
  [[nodiscard]] bool answered() const { return upstream_ != nullptr && upstream_->answered(); }
  [[nodiscard]] rpc::Slice TakeAnswer() { return std::move(answer_); }

 private:
  void Done(Status status, rpc::Metadata trailers) {
    slot_ = nullptr;  // first: who waits for room may have it
    const std::shared_ptr<ForwardedCall> owner = std::exchange(owner_, nullptr);
    if (owner == nullptr) return;
    if (status.ok() && messages_ != 1) {
      status =
          Status(Code::kInternal, "the endpoint answered " + std::to_string(messages_) + " messages instead of one");
    }
    owner->AttemptEnded(shared_from_this(), std::move(status), std::move(trailers));
  }

  std::shared_ptr<ForwardedCall> owner_;  // null: nobody waits for it any more
  const std::shared_ptr<Peer> peer_;
  std::unique_ptr<Slot> slot_;
  std::shared_ptr<rpc::ClientCall> upstream_;
  rpc::Slice answer_;
  int messages_ = 0;
  bool hung_ = false;
};

ForwardedCall::ForwardedCall(Core& core, std::shared_ptr<rpc::ServerCall> call, rpc::Slice request, RequestHead head)
    : Seeker(core),
      call_(std::move(call)),
      request_(std::move(request)),
      path_(call_->path()),
      began_(core.loop->now()),
      hedge_timer_([this] { Hedge(); }) {
  head_ = std::move(head);
}

void ForwardedCall::Start() {
  call_->OnCancel([weak = weak_from_this()] {
    if (const std::shared_ptr<ForwardedCall> self = weak.lock()) self->ClientGone();
  });
  if (over_) return;
  core_.budget.Request();
  Seek();
}

void ForwardedCall::RunAt(std::shared_ptr<Peer> peer) {
  CountAttempt(*peer);
  core_.router->Sent(head_, *peer);
  ArmHedge();
  const auto attempt = std::make_shared<Attempt>(shared_from_this(), std::move(peer), core_.now());
  running_.push_back(attempt);
  attempt->Send(path_, WithName(head_, request_), PassOn(*call_, core_.loop->now()));
  if (!head_.shadow.empty() && attempts_ == 1) SendCopy(core_, head_, *call_, request_);
}

void ForwardedCall::ArmHedge() {
  const std::optional<double> after_s = core_.router->policy().hedge_after_s;
  if (!after_s || attempts_ > 1 || !head_.retry_safe) return;
  const auto span = std::chrono::duration<double>(*after_s);
  core_.loop->Arm(&hedge_timer_,
                  core_.loop->now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(span));
}

void ForwardedCall::Hedge() {
  if (over_ || running_.size() != 1 || attempts_ >= core_.router->policy().max_attempts) return;
  const Tried first{running_.front()->peer().key};
  const Found other = core_.router->Choose(head_, first, core_.now());
  if (other.peer == nullptr || !core_.router->IsActive(*other.peer) || !core_.budget.TrySpend(core_.now())) return;
  core_.metrics.hedges.Add();
  RunAt(other.peer);
}

// ------------------------------------------------------------------------------------------------- after an attempt

void ForwardedCall::AttemptEnded(const std::shared_ptr<Attempt>& attempt, Status status, rpc::Metadata trailers) {
  const std::shared_ptr<ForwardedCall> held = shared_from_this();
  running_.erase(std::remove(running_.begin(), running_.end(), attempt), running_.end());
  if (!over_) {
    if (status.ok()) {
      Succeeded(attempt, std::move(trailers));
    } else {
      Failed(attempt, std::move(status), std::move(trailers));
    }
  }
  core_.waiting.Serve();
}

void ForwardedCall::Succeeded(const std::shared_ptr<Attempt>& attempt, rpc::Metadata trailers) {
  const double now = core_.now();
  core_.router->Answered(attempt->peer(), now - attempt->started(), now);
  rpc::Message answer;
  answer.Append(attempt->TakeAnswer());
  call_->Send(std::move(answer));
  Finish(Status(), std::move(trailers));
}

void ForwardedCall::Failed(const std::shared_ptr<Attempt>& attempt, Status status, rpc::Metadata trailers) {
  Verdict verdict{head_.retry_safe ? Next::kElsewhere : Next::kRaise, Fault::kLost};
  if (!attempt->hung()) {
    const double now = core_.now();
    verdict = routing::Judge(status.code(), status.message(), attempt->answered(), head_.retry_safe);
    core_.router->Failed(attempt->peer(), verdict.fault, status, now - attempt->started(), now);
  }
  tried_.emplace_back(attempt->peer().key, verdict.fault == Fault::kNone || verdict.fault == Fault::kBusy);
  if (verdict.fault != Fault::kNone) status = ForClient(status, attempt->peer(), attempts_);
  if (running_.empty()) return Retry(verdict.next, std::move(status), std::move(trailers));
  last_error_ = std::move(status);  // a hedge runs on
}

void ForwardedCall::Retry(Next next, Status status, rpc::Metadata trailers) {
  const double now = core_.now();
  // The state of a running sequence is at one peer, which may only be asked again when it had no room.
  const bool again = next == Next::kLater || (next != Next::kRaise && !head_.pinned());
  if (!again || attempts_ >= core_.router->policy().max_attempts) return Finish(std::move(status), std::move(trailers));
  if (head_.pinned()) tried_.clear();
  const Found other = core_.router->Choose(head_, tried_, now);
  if (next == Next::kElsewhereOnce) {
    if (asked_elsewhere_ || other.peer == nullptr) return Finish(std::move(status), std::move(trailers));
    asked_elsewhere_ = true;
  }
  if (!core_.budget.TrySpend(now)) {
    core_.metrics.budget_refused.Add();
    return Finish(BudgetUsedUp(status), std::move(trailers));
  }
  core_.metrics.retries.Add();
  last_error_ = status;
  if (other.peer != nullptr && next != Next::kLater) return RunAt(other.peer);
  if (!SeekLater(attempts_, call_->deadline())) Finish(std::move(status), std::move(trailers));
}

// ----------------------------------------------------------------------------------------------------------- the end

void ForwardedCall::ClientGone() {
  if (over_) return;
  const std::shared_ptr<ForwardedCall> held = shared_from_this();
  const bool late = call_->deadline() && core_.loop->now() >= *call_->deadline();
  if (late) {  // counts against those that did not answer in time
    for (const auto& attempt : running_) {
      core_.router->Failed(attempt->peer(), Fault::kSlow, {Code::kDeadlineExceeded, "no answer in time"},
                           core_.now() - attempt->started(), core_.now());
    }
  }
  End(late ? Code::kDeadlineExceeded : Code::kCancelled);
  core_.waiting.Serve();
}

void ForwardedCall::Finish(Status status, rpc::Metadata trailers) {
  if (over_) return;
  End(status.code());
  call_->Finish(std::move(status), std::move(trailers));
}

void ForwardedCall::End(Code code) {
  over_ = true;
  StopSeeking();
  core_.loop->Disarm(&hedge_timer_);
  for (const auto& attempt : std::exchange(running_, {})) attempt->Drop();
  core_.router->Ended(head_);
  core_.metrics.Count(code, core_.loop->now() - began_);
}

}  // namespace mesh::proxy
