#include "proxy/forwarded_stream.h"

#include <utility>

#include "proxy/passing_on.h"
#include "proxy/sides.h"
#include "routing/verdict.h"

namespace mesh::proxy {
namespace {

constexpr std::size_t kMaxReplayBytes = 1UL << 20;  // of requests that are kept until the first answer
constexpr std::size_t kMaxUnsentUp = 4UL << 20;     // towards the peer, before the client must wait
constexpr std::size_t kMaxUnsentDown = 4UL << 20;   // towards the client, before the peer must wait

rpc::Message MessageOf(rpc::Slice bytes) {
  rpc::Message message;
  message.Append(std::move(bytes));
  return message;
}

}  // namespace

ForwardedStream::ForwardedStream(Core& core, std::shared_ptr<rpc::ServerCall> call)
    : Seeker(core), call_(std::move(call)), began_(core.loop->now()) {}

void ForwardedStream::Start(std::optional<rpc::Slice> first) {
  call_->OnCancel([weak = weak_from_this()] {
    if (const std::shared_ptr<ForwardedStream> self = weak.lock()) self->ClientGone();
  });
  if (over_) return;
  core_.budget.Request();
  call_->OnSent([weak = weak_from_this()] {
    const std::shared_ptr<ForwardedStream> self = weak.lock();
    if (self != nullptr && self->upstream_ != nullptr) self->upstream_->PauseReading(false);
  });
  call_->OnMessage(
      [self = shared_from_this()](std::optional<rpc::Slice> message) { self->FromClient(std::move(message)); });
  if (first) FromClient(std::move(first));
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
  if (core_.own_name != nullptr) {
    if (std::string own = core_.own_name(head.model); own != head.model) head.Rename(std::move(own));
    if (!head.renaming.empty()) message = rpc::Slice::Own(WithName(head, *message).Flatten());
  }
  if (chosen_) {
    if (upstream_ != nullptr) NoteSequence(head);
    return Pass(std::move(*message));
  }
  chosen_ = true;
  head_ = std::move(head);
  ReadMetadataHead(call_->metadata(), core_.router->policy().hash_key, &head_);
  if (const std::string deployment = PulledDeployment(core_, call_->metadata(), &head_); !deployment.empty()) {
    return Finish({Code::kUnimplemented,
                   "ModelStreamInfer is not supported by the deployment " + deployment +
                       ", whose requests go through a broker (dispatch: pull): use ModelInfer, or send it to a replica "
                       "itself (`mesh endpoints` shows the addresses)"},
                  {});
  }
  Pass(std::move(*message));
  Seek();
}

void ForwardedStream::ClientGone() {
  if (over_) return;
  const std::shared_ptr<ForwardedStream> held = shared_from_this();
  const bool late = call_->deadline() && core_.loop->now() >= *call_->deadline();
  End(late ? Code::kDeadlineExceeded : Code::kCancelled);
  core_.waiting.Serve();
}

void ForwardedStream::Pass(rpc::Slice message) {
  if (replayable_) {
    unanswered_bytes_ += message.size();
    replayable_ = upstream_ == nullptr || unanswered_bytes_ <= kMaxReplayBytes;
    if (replayable_) {
      unanswered_.push_back(message);
    } else {
      unanswered_.clear();
    }
  }
  if (upstream_ == nullptr) return;  // RunAt sends it
  upstream_->Send(MessageOf(std::move(message)));
  if (upstream_->unsent_bytes() > kMaxUnsentUp) call_->PauseMessages(true);
}

void ForwardedStream::NoteSequence(const RequestHead& head) {
  core_.router->Sent(head, *peer_);
  core_.router->Ended(head);
}

// ----------------------------------------------------------------------------------------------------- to the peer

rpc::StreamCallbacks ForwardedStream::Callbacks() {
  rpc::StreamCallbacks callbacks;
  callbacks.on_message = [self = shared_from_this()](rpc::Slice message) { self->FromPeer(std::move(message)); };
  callbacks.on_sent = [weak = weak_from_this()] {
    const std::shared_ptr<ForwardedStream> self = weak.lock();
    if (self != nullptr && !self->over_ && !self->waiting()) self->call_->PauseMessages(false);
  };
  callbacks.on_done = [self = shared_from_this()](Status status, rpc::Metadata trailers) {
    self->PeerDone(std::move(status), std::move(trailers));
  };
  return callbacks;
}

void ForwardedStream::RunAt(std::shared_ptr<Peer> peer) {
  CountAttempt(*peer);
  peer_ = std::move(peer);
  slot_ = std::make_unique<Slot>(peer_, this, core_.now());
  upstream_ = peer_->channel->Stream(std::string(call_->path()), PassOn(*call_, core_.loop->now()), Callbacks());
  for (const rpc::Slice& message : unanswered_) {
    RequestHead head;
    if (ReadInferHead(message.view(), &head).ok()) NoteSequence(head);
    upstream_->Send(MessageOf(message));
  }
  if (client_done_) upstream_->HalfClose();
}

// --------------------------------------------------------------------------------------------------- from the peer

void ForwardedStream::FromPeer(rpc::Slice message) {
  if (over_) return;
  replayable_ = false;
  unanswered_.clear();
  peer_->answered_at = core_.now();
  call_->Send(MessageOf(std::move(message)));
  if (call_->unsent_bytes() > kMaxUnsentDown) upstream_->PauseReading(true);
}

void ForwardedStream::PeerDone(Status status, rpc::Metadata trailers) {
  const std::shared_ptr<ForwardedStream> held = shared_from_this();
  slot_ = nullptr;
  if (!over_) {
    if (status.ok()) {
      core_.router->Worked(*peer_, core_.now());
      Finish(std::move(status), std::move(trailers));
    } else {
      PeerFailed(std::move(status), std::move(trailers));
    }
  }
  core_.waiting.Serve();
}

// A drain may cut a stream off whose requests have begun to run; one of a single request is refused as a whole.
bool ForwardedStream::MayOpenElsewhere(const routing::Verdict& verdict) const {
  const bool not_begun = verdict.fault != routing::Fault::kLeaving || unanswered_.size() == 1;
  return replayable_ && verdict.next == routing::Next::kElsewhere && not_begun && !head_.pinned() &&
         attempts_ < core_.router->policy().max_attempts;
}

void ForwardedStream::PeerFailed(Status status, rpc::Metadata trailers) {
  const double now = core_.now();
  const bool answered = upstream_ != nullptr && upstream_->answered();
  const routing::Verdict verdict = routing::Judge(status.code(), status.message(), answered, false);
  core_.router->Failed(*peer_, verdict.fault, status, now - started(), now);
  tried_.emplace_back(peer_->key, verdict.fault == routing::Fault::kNone || verdict.fault == routing::Fault::kBusy);
  upstream_ = nullptr;
  const bool elsewhere = MayOpenElsewhere(verdict);
  if (verdict.fault != routing::Fault::kNone) status = ForClient(status, *peer_, attempts_);
  if (!elsewhere) return Finish(std::move(status), std::move(trailers));
  if (!core_.budget.TrySpend(now)) {
    core_.metrics.budget_refused.Add();
    return Finish(BudgetUsedUp(status), std::move(trailers));
  }
  core_.metrics.retries.Add();
  last_error_ = status;
  const Found other = core_.router->Choose(head_, tried_, now);
  if (other.peer != nullptr) return RunAt(other.peer);
  if (!SeekLater(attempts_, call_->deadline())) Finish(std::move(status), std::move(trailers));
}

void ForwardedStream::PeerHangs() {
  const std::shared_ptr<ForwardedStream> held = shared_from_this();
  Finish(ForClient({Code::kUnavailable, "it does not answer, not even whether it is live"}, *peer_, attempts_), {});
}

void ForwardedStream::Finish(Status status, rpc::Metadata trailers) {
  if (over_) return;
  const std::shared_ptr<ForwardedStream> held = shared_from_this();
  End(status.code());
  call_->Finish(std::move(status), std::move(trailers));
  core_.waiting.Serve();  // its place is free
}

void ForwardedStream::End(Code code) {
  over_ = true;
  StopSeeking();
  slot_ = nullptr;
  unanswered_.clear();
  if (upstream_ != nullptr) std::exchange(upstream_, nullptr)->Cancel();
  core_.metrics.Count(code, core_.loop->now() - began_);
}

}  // namespace mesh::proxy
