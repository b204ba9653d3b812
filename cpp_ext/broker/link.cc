#include "broker/link.h"

#include <algorithm>
#include <utility>

#include "common/log.h"

namespace mesh::broker {
namespace {

using std::chrono::milliseconds;

constexpr const char* kPull = "/mesh.broker.v1.Broker/Pull";
constexpr milliseconds kFirstPause{100};
constexpr milliseconds kLongestPause{2000};
constexpr milliseconds kWelcome{10000};
constexpr double kUsualLease_s = 15.0;
constexpr double kSignsPerLease = 3.0;
constexpr std::size_t kTogether = 256UL << 10;  // bytes of several messages in one
constexpr std::size_t kUnsent = 4UL << 20;      // a broker that does not read hears no more until it does

std::shared_ptr<rpc::Channel> ChannelTo(const proxy::Endpoint& endpoint, const std::optional<rpc::TlsOptions>& tls,
                                        const std::shared_ptr<rpc::EventLoop>& loop) {
  rpc::ChannelOptions options;
  if (endpoint.tls) options.tls = tls.value_or(rpc::TlsOptions());
  options.max_backoff = kLongestPause;
  return rpc::Channel::Create(endpoint.address, std::move(options), loop);
}

milliseconds Milliseconds(double seconds) { return milliseconds(static_cast<std::int64_t>(seconds * 1000)); }

}  // namespace

Link::Link(proxy::Endpoint endpoint, LinkOwner& owner, std::shared_ptr<rpc::EventLoop> loop,
           const std::optional<rpc::TlsOptions>& tls)
    : endpoint_(std::move(endpoint)),
      owner_(owner),
      loop_(std::move(loop)),
      channel_(ChannelTo(endpoint_, tls, loop_)),
      lease_s_(kUsualLease_s),
      backoff_(kFirstPause, kLongestPause),
      timer_([this] { OnTimer(); }) {}

Link::~Link() { Close(); }

void Link::Start() { Call(); }

void Link::Wake() {
  if (!connected() || std::exchange(waking_, true)) return;
  loop_->RunAtEnd(this);
}

void Link::RunInLoop() {
  waking_ = false;
  if (connected()) Speak(false);
}

void Link::Listed(const proxy::Endpoint& endpoint) {
  endpoint_ = endpoint;
  gone_ = false;
  Wake();
}

void Link::Leave() {
  gone_ = true;
  if (phase_ == Phase::kPausing) End();
}

void Link::Close() {
  ++conversation_;
  phase_ = Phase::kEnded;
  loop_->Disarm(&timer_);
  if (std::exchange(waking_, false)) loop_->CancelAtEnd(this);
  call_ = nullptr;
  channel_->Close();
}

bool Link::Serves(std::string_view journal) const {
  const std::vector<std::string>& journals = endpoint_.journals;
  return std::any_of(journals.begin(), journals.end(), [&](const std::string& one) { return one == journal; });
}

// ---------------------------------------------------------------- a conversation

void Link::Call() {
  phase_ = Phase::kGreeting;
  rpc::StreamCallbacks callbacks;
  const auto heard = [weak = weak_from_this(), number = ++conversation_](const auto& tell) {
    const std::shared_ptr<Link> link = weak.lock();
    if (link != nullptr && link->conversation_ == number) tell(*link);
  };
  callbacks.on_message = [heard](const rpc::Slice& message) { heard([&](Link& link) { link.OnMessage(message); }); };
  callbacks.on_sent = [heard] { heard([](Link& link) { link.Wake(); }); };
  callbacks.on_done = [heard](const Status& status, const rpc::Metadata&) {
    heard([&](Link& link) { link.Lose(status.ok() ? "it ended the conversation" : status.message()); });
  };
  call_ = channel_->Stream(kPull, {}, std::move(callbacks));
  call_->Send(owner_.HelloMessage());
  loop_->Arm(&timer_, rpc::EventLoop::TimePoint::clock::now() + kWelcome);
}

void Link::OnMessage(const rpc::Slice& message) {
  Result<std::vector<Reply>> replies = ParseReplies(message);
  if (!replies.ok()) return Lose(replies.status().message());
  const std::uint64_t conversation = conversation_;
  for (Reply& reply : replies.value()) {
    if (conversation != conversation_) return;
    if (phase_ == Phase::kGreeting) {
      if (!std::holds_alternative<Welcome>(reply)) return Lose("it began without a welcome");
      Begin(std::get<Welcome>(reply));
    } else {
      owner_.Received(*this, std::move(reply));
    }
  }
}

void Link::Begin(const Welcome& welcome) {
  phase_ = Phase::kOpen;
  outstanding = 0;
  failures_ = 0;
  backoff_.Reset();
  lease_s_ = welcome.lease_s > 0 ? welcome.lease_s : kUsualLease_s;
  max_result_bytes_ = welcome.max_result_bytes;
  ArmTick();
  log::Info("pulls from a broker", {{"broker", endpoint_.id}, {"address", endpoint_.address}});
  owner_.Welcomed(*this, welcome);
  Wake();
}

void Link::Lose(const std::string& why) {
  Note(why);
  ++conversation_;  // before the call is cancelled, which tells of its end
  if (const auto call = std::exchange(call_, nullptr)) call->Cancel();
  phase_ = Phase::kPausing;
  outstanding = 0;
  tick_due_ = false;
  owner_.Disconnected(*this);
  Pause();
}

void Link::Note(const std::string& why) {
  const bool known = failures_++ > 0 || gone_;
  log::Write(known ? log::Level::kDebug : log::Level::kWarning, "the broker is away",
             {{"broker", endpoint_.id}, {"error", why}});
}

void Link::Pause() {
  if (gone_) return End();
  loop_->Arm(&timer_, rpc::EventLoop::TimePoint::clock::now() + backoff_.Next());
}

void Link::End() {
  const std::shared_ptr<Link> self = shared_from_this();
  Close();
  owner_.Ended(*this);
}

void Link::OnTimer() {
  switch (phase_) {
    case Phase::kGreeting: return Lose("no welcome in time");
    case Phase::kPausing: return Call();
    case Phase::kOpen: ArmTick(); return Speak(true);
    default: return;
  }
}

void Link::ArmTick() {
  loop_->Arm(&timer_, rpc::EventLoop::TimePoint::clock::now() + Milliseconds(lease_s_ / kSignsPerLease));
}

void Link::Speak(bool progress) {
  tick_due_ = tick_due_ || progress;
  if (call_->unsent_bytes() > kUnsent) return;  // on_sent wakes it
  for (rpc::Message& message : Together(owner_.ToSay(*this, std::exchange(tick_due_, false)), kTogether)) {
    call_->Send(std::move(message));
  }
}

}  // namespace mesh::broker
