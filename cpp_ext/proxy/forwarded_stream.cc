#include "proxy/forwarded_stream.h"

#include <chrono>
#include <utility>

#include "proxy/passing_on.h"
#include "routing/verdict.h"

namespace mesh::proxy {
namespace {

constexpr std::size_t kMaxReplayBytes = 1UL << 20;  // of requests that are kept until the first answer
constexpr std::size_t kMaxUnsentUp = 4UL << 20;     // towards the peer, before the client must wait
constexpr std::size_t kMaxUnsentDown = 4UL << 20;   // towards the client, before the peer must wait

}  // namespace

ForwardedStream::ForwardedStream(Core& core, std::shared_ptr<rpc::ServerCall> call, std::string hash_key)
    : core_(core), call_(std::move(call)), hash_key_(std::move(hash_key)), began_(core.loop->now()), timer_([this] {
        WaitIsOver();
      }) {}

void ForwardedStream::Start() {
  call_->OnCancel([weak = weak_from_this()] {
    const std::shared_ptr<ForwardedStream> self = weak.lock();
    if (self == nullptr || self->over_) return;
    self->End(Code::kCancelled);
    if (self->core_.waiting.size() > 0) self->core_.waiting.Serve();
  });
  if (over_) return;
  core_.budget.Request();
  call_->OnSent([weak = weak_from_this()] {
    const std::shared_ptr<ForwardedStream> self = weak.lock();
    if (self != nullptr && self->upstream_ != nullptr) self->upstream_->PauseReading(false);
  });
  call_->OnMessage(
      [self = shared_from_this()](std::optional<rpc::Slice> message) { self->FromClient(std::move(message)); });
}

// --------------------------------------------------------------------------------------------------- from the client

void ForwardedStream::FromClient(std::optional<rpc::Slice> message) {
  if (over_) return;
  if (!message) {
    client_done_ = true;
    if (upstream_ != nullptr) return upstream_->HalfClose();
    if (!chosen_) Finish(Status(), {});  // it asked nothing
    return;
  }
  RequestHead head;
  if (Status bad = ReadInferHead(message->view(), &head); !bad.ok()) return Finish(std::move(bad), {});
  if (!std::exchange(chosen_, true)) {
    head_ = head;
    ReadMetadataHead(call_->metadata(), hash_key_, &head_);
  } else if (peer_ != nullptr) {
    core_.router->Sent(head, *peer_);
  }
  Pass(std::move(*message));
  if (upstream_ != nullptr || over_ || waiting_) return;
  if (!Choose()) Wait();
}

void ForwardedStream::Pass(rpc::Slice message) {
  if (replayable_) {
    unanswered_bytes_ += message.size();
    if (upstream_ != nullptr && unanswered_bytes_ > kMaxReplayBytes) {
      replayable_ = false;
      unanswered_.clear();
    } else {
      unanswered_.push_back(message);
    }
  }
  if (upstream_ == nullptr) return;  // Open sends it
  rpc::Message outgoing;
  outgoing.Append(std::move(message));
  upstream_->Send(std::move(outgoing));
  if (upstream_->unsent_bytes() > kMaxUnsentUp) call_->PauseMessages(true);
}

// ---------------------------------------------------------------------------------------------------- choice of a peer

bool ForwardedStream::Choose() {
  Found found = core_.router->Choose(head_, tried_, core_.now());
  if (found.lack == Lack::kUntried) {
    tried_.clear();
    found = core_.router->Choose(head_, tried_, core_.now());
  }
  lack_ = found.lack;
  if (found.peer == nullptr) return false;
  Open(std::move(found.peer));
  return true;
}

void ForwardedStream::Wait() {
  if (core_.waiting.full()) {
    core_.metrics.queue_full.Add();
    return Finish(core_.IsFull(), {});
  }
  waiting_ = true;
  call_->PauseMessages(true);
  core_.waiting.Enter(head_, shared_from_this());
  core_.metrics.waiting.Set(static_cast<double>(core_.waiting.size()));
  LimitWait();
}

void ForwardedStream::LimitWait() {
  core_.loop->Disarm(&timer_);
  const std::optional<double> longest_s = core_.LongestWait(lack_);
  if (!longest_s) return;
  const auto span = std::chrono::duration<double>(*longest_s);
  core_.loop->Arm(&timer_, core_.loop->now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(span));
}

bool ForwardedStream::TryAgain() {
  if (over_) return true;
  const Lack before = lack_;
  waiting_ = false;
  if (Choose()) {
    core_.loop->Disarm(&timer_);
    call_->PauseMessages(false);
    return true;
  }
  waiting_ = true;
  if (lack_ != before) LimitWait();
  return false;
}

void ForwardedStream::WaitIsOver() {
  if (over_) return;
  const std::shared_ptr<ForwardedStream> held = shared_from_this();
  if (lack_ == Lack::kModel) return Finish(UnknownModel(*core_.router, core_.application, head_), {});
  Finish({Code::kUnavailable, "no endpoint of " + core_.application + " became ready in time"}, {});
}

void ForwardedStream::Open(std::shared_ptr<Peer> peer) {
  ++attempts_;
  core_.metrics.attempts.Add();
  core_.router->Sent(head_, *peer);
  peer_ = std::move(peer);
  slot_ = std::make_unique<Slot>(peer_, this, core_.now());
  rpc::StreamCallbacks callbacks;
  callbacks.on_message = [self = shared_from_this()](rpc::Slice message) { self->FromPeer(std::move(message)); };
  callbacks.on_sent = [weak = weak_from_this()] {
    const std::shared_ptr<ForwardedStream> self = weak.lock();
    if (self != nullptr && !self->over_ && !self->waiting_) self->call_->PauseMessages(false);
  };
  callbacks.on_done = [self = shared_from_this()](Status status, rpc::Metadata trailers) {
    self->PeerDone(std::move(status), std::move(trailers));
  };
  upstream_ =
      peer_->channel->Stream(std::string(call_->path()), PassOn(*call_, core_.loop->now()), std::move(callbacks));
  for (const rpc::Slice& message : unanswered_) {
    rpc::Message outgoing;
    outgoing.Append(message);
    upstream_->Send(std::move(outgoing));
  }
  if (client_done_) upstream_->HalfClose();
}

// ----------------------------------------------------------------------------------------------------- from the peer

void ForwardedStream::FromPeer(rpc::Slice message) {
  if (over_) return;
  replayable_ = false;
  unanswered_.clear();
  peer_->answered_at = core_.now();
  rpc::Message outgoing;
  outgoing.Append(std::move(message));
  call_->Send(std::move(outgoing));
  if (call_->unsent_bytes() > kMaxUnsentDown) upstream_->PauseReading(true);
}

bool ForwardedStream::MayOpenElsewhere(const Status& status, routing::Fault fault) const {
  const bool untouched = fault == routing::Fault::kLeaving || routing::WasNeverSent(status.message());
  return replayable_ && untouched && !head_.pinned() && attempts_ < core_.router->policy().max_attempts;
}

void ForwardedStream::PeerDone(Status status, rpc::Metadata trailers) {
  const std::shared_ptr<ForwardedStream> held = shared_from_this();
  slot_ = nullptr;
  if (!over_) {
    if (status.ok()) {
      Finish(std::move(status), std::move(trailers));
    } else {
      const double now = core_.now();
      const routing::Verdict verdict = routing::Judge(status.code(), status.message(), upstream_->answered(), false);
      core_.router->Failed(*peer_, verdict.fault, status, now - started(), now);
      tried_.push_back(peer_->key);
      upstream_ = nullptr;
      if (MayOpenElsewhere(status, verdict.fault) && core_.budget.TrySpend(now)) {
        core_.metrics.retries.Add();
        if (!Choose()) Wait();
      } else {
        if (verdict.fault != routing::Fault::kNone) status = NameEndpoint(status, *peer_, attempts_);
        Finish(std::move(status), std::move(trailers));
      }
    }
  }
  if (core_.waiting.size() > 0) core_.waiting.Serve();
}

void ForwardedStream::PeerHangs() {
  Finish(NameEndpoint({Code::kUnavailable, "it does not answer, not even whether it is live"}, *peer_, attempts_), {});
}

void ForwardedStream::Finish(Status status, rpc::Metadata trailers) {
  if (over_) return;
  const std::shared_ptr<ForwardedStream> held = shared_from_this();
  End(status.code());
  call_->Finish(std::move(status), std::move(trailers));
}

void ForwardedStream::End(Code code) {
  over_ = true;
  core_.loop->Disarm(&timer_);
  slot_ = nullptr;
  unanswered_.clear();
  if (upstream_ != nullptr) std::exchange(upstream_, nullptr)->Cancel();
  if (std::exchange(waiting_, false)) core_.waiting.Leave(head_, this);
  core_.metrics.waiting.Set(static_cast<double>(core_.waiting.size()));
  core_.metrics.Count(code, core_.loop->now() - began_);
}

}  // namespace mesh::proxy
