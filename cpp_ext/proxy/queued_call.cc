#include "proxy/queued_call.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <random>
#include <utility>

namespace mesh::proxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr const char* kCall = "/mesh.broker.v1.Broker/Call";
constexpr const char* kFollow = "/mesh.broker.v1.Broker/Follow";
constexpr seconds kTaken{30};           // until a broker has it
constexpr seconds kAway{60};            // for so long nobody may serve its journal
constexpr double kResultTtl_s = 120.0;  // whoever comes back within `kAway` finds it
constexpr seconds kLasted{5};           // a connection that held so long was one
constexpr milliseconds kFirstPause{50};
constexpr int kMostDoublings = 4;
// serving/broker/service.py and draining.py: it has not begun what it was asked.
constexpr char kRefused[] = "takes no new requests";

// 128 bits of the system's own: whoever has another one's key is given the other one's result.
std::string NewKey() {
  thread_local std::random_device random;
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%08x%08x%08x%08x", random(), random(), random(), random());
  return text.data();
}

std::string JournalOf(const std::string& ticket) { return ticket.substr(0, ticket.find('.')); }
std::string IdOf(const std::string& ticket) { return ticket.substr(0, ticket.rfind('.')); }

}  // namespace

QueuedCall::QueuedCall(Core& core, std::shared_ptr<rpc::ServerCall> call, rpc::Slice request, RequestHead head,
                       std::string deployment)
    : core_(core),
      call_(std::move(call)),
      request_(std::move(request)),
      head_(std::move(head)),
      deployment_(std::move(deployment)),
      key_(NewKey()),
      began_(core.loop->now()),
      timer_([this] { OnTimer(); }) {}

void QueuedCall::Start() {
  core_.brokers->Enter(shared_from_this());
  core_.metrics.pulled.Add();
  until_ = began_ + kTaken;
  call_->OnCancel([weak = weak_from_this()] {
    if (const std::shared_ptr<QueuedCall> self = weak.lock()) self->ClientGone();
  });
  if (!over_) Ask();
}

// --------------------------------------------------------------------------------------------------------- at brokers

// The pause is over, or a broker has not taken it in time: what it takes later is cancelled with the call.
void QueuedCall::OnTimer() {
  if (upstream_ == nullptr) return Ask();
  const std::shared_ptr<QueuedCall> held = shared_from_this();
  Finish(NobodyThere({Code::kUnavailable, "the broker " + broker_->endpoint.id + " does not answer"}));
}

// Submits it, or goes on where it is known to be.
void QueuedCall::Ask() {
  if (over_) return;
  if (ticket_.empty()) {
    auto broker = core_.brokers->Taker(deployment_, bound_, left_, &core_.chance);
    if (broker == nullptr) return AskLater({Code::kUnavailable, "no broker that takes it is there"});
    return Open(broker, kCall, EncodeSubmission(MakeSubmission()));
  }
  auto broker = core_.brokers->Home(JournalOf(ticket_));
  if (broker == nullptr) return AskLater({Code::kUnavailable, "nobody serves its journal"});
  Open(broker, kFollow, EncodeFollow(ticket_));
}

void QueuedCall::Open(const std::shared_ptr<BrokerPeer>& broker, const char* path, rpc::Message message) {
  broker_ = broker;
  opened_ = core_.loop->now();
  if (ticket_.empty() && until_) core_.loop->Arm(&timer_, *until_);
  rpc::CallOptions options;
  if (const auto deadline = call_->deadline()) {
    options.timeout = std::max(std::chrono::ceil<milliseconds>(*deadline - core_.loop->now()), milliseconds(1));
  }
  rpc::StreamCallbacks callbacks;
  callbacks.on_message = [self = shared_from_this()](const rpc::Slice& message) { self->Heard(message); };
  callbacks.on_done = [self = shared_from_this()](Status status, rpc::Metadata trailers) {
    self->Lost(std::move(status), std::move(trailers));
  };
  upstream_ = broker->channel->Ask(path, std::move(message), std::move(options), std::move(callbacks));
}

Submission QueuedCall::MakeSubmission() const {
  Submission made;
  made.deployment = deployment_;
  made.infer = WithName(head_, request_);
  made.metadata = call_->metadata();
  made.key = key_;
  made.new_key = new_key_;
  made.result_ttl_s = kResultTtl_s;
  if (const auto deadline = call_->deadline()) {
    const std::chrono::duration<double> left = *deadline - core_.loop->now();
    made.deadline_s = std::max(left.count(), 0.001);
  }
  return made;
}

void QueuedCall::Heard(const rpc::Slice& message) {
  if (over_) return;
  Result<Followed> read = ParseFollowed(message);
  if (!read.ok()) return Finish(read.status());
  failures_ = 0;
  until_.reset();
  core_.loop->Disarm(&timer_);
  if (auto* const taken = std::get_if<Taken>(&read.value()); taken != nullptr) {
    if (taken->repeated && new_key_) return NotOurs();
    ticket_ = std::move(taken->ticket);
    request_ = {};
  } else if (auto* const end = std::get_if<ItemEnd>(&read.value()); end != nullptr) {
    Ended(std::move(*end));
  }
}

// Nobody was asked before, and yet the key is known. The stream is left to end by itself: cancelled, it would take that
// item along, for which somebody else may wait.
void QueuedCall::NotOurs() {
  upstream_ = nullptr;
  Finish({Code::kUnavailable, "the broker " + broker_->endpoint.id +
                                  " knows the new request's key as another one's; the request was not taken, send it "
                                  "again"});
}

void QueuedCall::Ended(ItemEnd end) {
  if (!end.failure.ok()) return Finish(std::move(end.failure));
  if (end.answers.size() != 1) {
    return Finish({Code::kUnimplemented,
                   "the model answered " + std::to_string(end.answers.size()) +
                       " times, and ModelInfer has one answer: not supported through a broker (dispatch: pull); submit "
                       "it, or send ModelStreamInfer to a replica itself (`mesh endpoints` shows the addresses)"});
  }
  rpc::Message answer;
  answer.Append(std::move(end.answers.front()));
  call_->Send(std::move(answer));
  Finish({});
}

// The broker has ended the call, before its item has.
void QueuedCall::Lost(Status status, rpc::Metadata trailers) {
  if (over_) return;
  upstream_ = nullptr;
  if (!ticket_.empty() && core_.loop->now() - opened_ > kLasted) {
    failures_ = 0;
    until_.reset();
  }
  if (core_.brokers->closed()) return Finish({Code::kUnavailable, "this proxy ends"});
  if (status.ok()) return Finish({Code::kDataLoss, "the broker has ended the call without an answer"});
  if (status.code() != Code::kUnavailable) return Finish(std::move(status), std::move(trailers));
  if (ticket_.empty()) NotTaken(status);
  AskLater(std::move(status));
}

// Another broker is asked only where this one surely does not have it; else those who have its journals now.
void QueuedCall::NotTaken(const Status& status) {
  new_key_ = false;
  if (rpc::WasNotProcessed(status) || status.message().find(kRefused) != std::string::npos) {
    left_.insert(broker_->endpoint.id);
  } else if (bound_.empty()) {
    bound_ = broker_->endpoint.journals;
  }
}

void QueuedCall::AskLater(Status why) {
  const auto now = core_.loop->now();
  if (!until_) until_ = now + kAway;
  if (now >= *until_) return Finish(NobodyThere(why));
  const auto longest = kFirstPause * (1 << std::min(failures_++, kMostDoublings));
  const auto pause =
      std::chrono::duration_cast<std::chrono::steady_clock::duration>(longest * (0.5 + core_.chance() / 2));
  core_.loop->Arm(&timer_, now + pause);
}

Status QueuedCall::NobodyThere(const Status& why) const {
  const std::string last = "; last heard: " + why.message();
  if (!ticket_.empty()) {
    return {Code::kUnavailable, "no broker of " + core_.application + " serves the journal of the item " +
                                    IdOf(ticket_) + " now; it is kept there, and its work may still be done" + last};
  }
  const std::string may = bound_.empty() ? "" : "; one may have taken it, and its work may still be done";
  return {Code::kUnavailable, "no broker of " + core_.application + " has taken the request in time" + may + last};
}

// ----------------------------------------------------------------------------------------------------------- the end

void QueuedCall::ClientGone() {
  if (over_) return;
  const bool late = call_->deadline() && core_.loop->now() >= *call_->deadline();
  End(late ? Code::kDeadlineExceeded : Code::kCancelled);
}

void QueuedCall::Finish(Status status, rpc::Metadata trailers) {
  if (over_) return;
  const std::shared_ptr<QueuedCall> held = shared_from_this();
  End(status.code());
  call_->Finish(std::move(status), std::move(trailers));
}

// The broker cancels an item whose call ends before it does.
void QueuedCall::End(Code code) {
  const std::shared_ptr<QueuedCall> held = shared_from_this();
  over_ = true;
  core_.loop->Disarm(&timer_);
  if (upstream_ != nullptr) std::exchange(upstream_, nullptr)->Cancel();
  // A broker that has left discovery meanwhile may be ours alone, and its channel not be closed in a callback of it.
  core_.loop->Post([broker = std::move(broker_)] {});
  core_.metrics.Count(code, core_.loop->now() - began_);
  core_.brokers->Leave(this);
}

}  // namespace mesh::proxy
