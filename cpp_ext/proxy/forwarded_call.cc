#include "proxy/forwarded_call.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "proxy/health.h"
#include "proxy/passing_on.h"
#include "routing/verdict.h"

namespace mesh::proxy {
namespace {

using routing::Fault;
using routing::Next;
using routing::Verdict;

std::chrono::steady_clock::duration Duration(double seconds) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

// The request at one peer. Lives until its channel has said how it ended.
class ForwardedCall::Attempt final : public RunningCall, public std::enable_shared_from_this<Attempt> {
 public:
  Attempt(std::shared_ptr<ForwardedCall> owner, std::shared_ptr<Peer> peer, double now)
      : owner_(std::move(owner)), peer_(peer), slot_(std::make_unique<Slot>(std::move(peer), this, now)) {}

  void Send(const std::string& path, const rpc::Slice& request, rpc::CallOptions options) {
    rpc::StreamCallbacks callbacks;
    callbacks.on_message = [self = shared_from_this()](rpc::Slice message) {
      self->answer_ = std::move(message);
      ++self->messages_;
    };
    callbacks.on_done = [self = shared_from_this()](Status status, rpc::Metadata trailers) {
      self->Done(std::move(status), std::move(trailers));
    };
    rpc::Message message;
    message.Append(request);
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
    : core_(core),
      call_(std::move(call)),
      request_(std::move(request)),
      head_(std::move(head)),
      path_(call_->path()),
      began_(core.loop->now()),
      timer_([this] { (this->*std::exchange(due_, nullptr))(); }) {}

void ForwardedCall::Start() {
  call_->OnCancel([weak = weak_from_this()] {
    if (const std::shared_ptr<ForwardedCall> self = weak.lock()) self->ClientGone();
  });
  if (over_) return;
  core_.budget.Request();
  if (!Choose()) Wait();
}

bool ForwardedCall::Choose() {
  Found found = core_.router->Choose(head_, tried_, core_.now());
  if (found.lack == Lack::kUntried) {  // all were asked: begin again
    tried_.clear();
    found = core_.router->Choose(head_, tried_, core_.now());
  }
  lack_ = found.lack;
  if (found.peer == nullptr) return false;
  Run(std::move(found.peer));
  return true;
}

void ForwardedCall::Run(std::shared_ptr<Peer> peer) {
  const double now = core_.now();
  core_.loop->Disarm(&timer_);
  ++attempts_;
  core_.metrics.attempts.Add();
  core_.router->Sent(head_, *peer);
  rpc::CallOptions options = PassOn(*call_, core_.loop->now());
  const auto attempt = std::make_shared<Attempt>(shared_from_this(), std::move(peer), now);
  running_.push_back(attempt);
  attempt->Send(path_, request_, std::move(options));
  const std::optional<double> hedge_after_s = core_.router->policy().hedge_after_s;
  if (!hedge_after_s || attempts_ > 1 || !head_.retry_safe) return;
  due_ = &ForwardedCall::Hedge;
  core_.loop->Arm(&timer_, core_.loop->now() + Duration(*hedge_after_s));
}

void ForwardedCall::Hedge() {
  if (over_ || running_.size() != 1) return;
  const Tried first{running_.front()->peer().key};
  const Found other = core_.router->Choose(head_, first, core_.now());
  if (other.peer == nullptr || !core_.budget.TrySpend(core_.now())) return;
  core_.metrics.hedges.Add();
  Run(other.peer);
}

// ------------------------------------------------------------------------------------------------------------- waiting

void ForwardedCall::Wait() {
  if (core_.waiting.full()) {
    core_.metrics.queue_full.Add();
    return Finish(core_.IsFull(), {});
  }
  waiting_ = true;
  core_.waiting.Enter(head_, shared_from_this());
  core_.metrics.waiting.Set(static_cast<double>(core_.waiting.size()));
  LimitWait();
}

void ForwardedCall::LimitWait() {
  core_.loop->Disarm(&timer_);
  const std::optional<double> longest_s = core_.LongestWait(lack_);
  if (!longest_s) return;  // it ends with room, or with the call's own deadline
  due_ = &ForwardedCall::WaitIsOver;
  core_.loop->Arm(&timer_, core_.loop->now() + Duration(*longest_s));
}

bool ForwardedCall::TryAgain() {
  if (over_) return true;
  if (!waiting_) {  // it paused before its next attempt
    core_.loop->Disarm(&timer_);
    if (!Choose()) Wait();
    return true;
  }
  const Lack before = lack_;
  waiting_ = false;
  if (Choose()) return true;
  waiting_ = true;
  if (lack_ != before) LimitWait();
  return false;
}

void ForwardedCall::WaitIsOver() {
  if (over_) return;
  const std::shared_ptr<ForwardedCall> held = shared_from_this();
  Finish(NobodyThere(), {});
}

Status ForwardedCall::NobodyThere() const {
  if (lack_ == Lack::kModel) return UnknownModel(*core_.router, core_.application, head_);
  const std::size_t draining = core_.router->draining();
  std::string text = "no endpoint of " + core_.application + " became ready in time: ";
  text += draining > 0 ? std::to_string(draining) + " known, none takes new work" : "none is registered";
  if (!last_error_.ok()) text += "; last error: " + last_error_.message();
  return {Code::kUnavailable, text};
}

// ------------------------------------------------------------------------------------------------- after an attempt

void ForwardedCall::AttemptEnded(const std::shared_ptr<Attempt>& attempt, Status status, rpc::Metadata trailers) {
  const std::shared_ptr<ForwardedCall> held = shared_from_this();
  running_.erase(std::remove(running_.begin(), running_.end(), attempt), running_.end());
  if (!over_) {
    if (status.ok()) {
      Succeeded(attempt, std::move(trailers));
    } else {
      const double now = core_.now();
      Verdict verdict = routing::Judge(status.code(), status.message(), attempt->answered(), head_.retry_safe);
      if (attempt->hung()) verdict = {head_.retry_safe ? Next::kElsewhere : Next::kRaise, Fault::kLost};
      if (!attempt->hung()) {
        core_.router->Failed(attempt->peer(), verdict.fault, status, now - attempt->started(), now);
      }
      tried_.push_back(attempt->peer().key);
      if (verdict.fault != Fault::kNone) status = NameEndpoint(status, attempt->peer(), attempts_);
      if (running_.empty()) {
        Retry(verdict.next, std::move(status), std::move(trailers));
      } else {
        last_error_ = std::move(status);  // a hedge runs on
      }
    }
  }
  if (core_.waiting.size() > 0) core_.waiting.Serve();
}

void ForwardedCall::Succeeded(const std::shared_ptr<Attempt>& attempt, rpc::Metadata trailers) {
  const double now = core_.now();
  core_.router->Answered(attempt->peer(), now - attempt->started(), now);
  rpc::Message answer;
  answer.Append(attempt->TakeAnswer());
  call_->Send(std::move(answer));
  Finish(Status(), std::move(trailers));
}

bool ForwardedCall::MayRepeat() const { return attempts_ < core_.router->policy().max_attempts && !head_.pinned(); }

void ForwardedCall::Retry(Next next, Status status, rpc::Metadata trailers) {
  const double now = core_.now();
  const bool busy = next == Next::kLater && attempts_ < core_.router->policy().max_attempts;
  if (next == Next::kRaise || (!MayRepeat() && !busy)) return Finish(std::move(status), std::move(trailers));
  if (head_.pinned()) tried_.clear();
  const Found other = core_.router->Choose(head_, tried_, now);
  if (next == Next::kElsewhereOnce) {
    if (asked_elsewhere_ || other.peer == nullptr) return Finish(std::move(status), std::move(trailers));
    asked_elsewhere_ = true;
  }
  if (!core_.budget.TrySpend(now)) {
    core_.metrics.budget_refused.Add();
    return Finish(
        {status.code(), status.message() + "; not tried again: too many requests fail, the retry budget is used up"},
        std::move(trailers));
  }
  core_.metrics.retries.Add();
  last_error_ = status;
  if (other.peer == nullptr || next == Next::kLater) return Pause(std::move(status), std::move(trailers));
  Run(other.peer);
}

void ForwardedCall::Pause(Status status, rpc::Metadata trailers) {
  static thread_local Chance chance;
  const routing::Policy& policy = core_.router->policy();
  const double longest = std::min(policy.backoff_s * std::pow(2.0, std::min(attempts_ - 1, 20)), policy.backoff_max_s);
  const auto until = core_.loop->now() + Duration(longest * (0.5 + chance() / 2));
  if (call_->deadline() && until >= *call_->deadline()) return Finish(std::move(status), std::move(trailers));
  core_.pausing.insert(shared_from_this());
  due_ = &ForwardedCall::PauseIsOver;
  core_.loop->Arm(&timer_, until);
}

void ForwardedCall::PauseIsOver() {
  const std::shared_ptr<ForwardedCall> held = shared_from_this();
  core_.pausing.erase(held);
  TryAgain();
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
  if (core_.waiting.size() > 0) core_.waiting.Serve();
}

void ForwardedCall::Finish(Status status, rpc::Metadata trailers) {
  if (over_) return;
  const Code code = status.code();
  End(code);
  call_->Finish(std::move(status), std::move(trailers));
}

void ForwardedCall::End(Code code) {
  over_ = true;
  due_ = nullptr;
  core_.loop->Disarm(&timer_);
  for (const auto& attempt : std::exchange(running_, {})) attempt->Drop();
  if (std::exchange(waiting_, false)) core_.waiting.Leave(head_, this);
  core_.metrics.waiting.Set(static_cast<double>(core_.waiting.size()));
  core_.pausing.erase(shared_from_this());
  core_.metrics.Count(code, core_.loop->now() - began_);
}

}  // namespace mesh::proxy
