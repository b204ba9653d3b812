#include "user_code/composition.h"

#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

#include "ingress/trace_context.h"
#include "proxy/forwarded_call.h"
#include "rpc/client.h"
#include "user_code/exchange.h"
#include "user_code/wire.h"

namespace mesh::user {
namespace {

constexpr char kPath[] = "/inference.GRPCInferenceService/ModelInfer";
constexpr std::chrono::milliseconds kReconnect{100};
constexpr std::chrono::milliseconds kReconnectAtMost{1000};

// What a deployment that is away or full means to the client of this one: not that this one refused.
Status OfCalled(const Status& status, const std::string& deployment) {
  const bool away = status.code() == Code::kUnavailable || status.code() == Code::kResourceExhausted;
  if (!away) return status;
  return {Code::kUnavailable, "deployment " + deployment + ", which this one calls: " + status.message()};
}

// The trace of the request that the question is asked for.
rpc::Metadata TraceOf(const MeshQuestion& question) {
  if (question.parent == nullptr) return {};
  const ingress::TraceContext trace = ingress::TraceContextOf(question.parent->facts().metadata);
  if (trace.empty()) return {};
  rpc::Metadata metadata{{"traceparent", std::string(trace.traceparent)}};
  if (!trace.tracestate.empty()) metadata.emplace_back("tracestate", std::string(trace.tracestate));
  return metadata;
}

}  // namespace

// A call that has no network on its client's side. Everything on the loop, but for its making.
class LocalCall final : public rpc::ServerCall, public std::enable_shared_from_this<LocalCall> {
 public:
  LocalCall(Composition* owner, std::string deployment, std::shared_ptr<Asker> asker, rpc::Metadata metadata)
      : owner_(owner), deployment_(std::move(deployment)), asker_(std::move(asker)), metadata_(std::move(metadata)) {}

  [[nodiscard]] std::string_view path() const override { return kPath; }
  [[nodiscard]] const rpc::Metadata& metadata() const override { return metadata_; }
  [[nodiscard]] std::string_view peer() const override { return "this process"; }
  [[nodiscard]] std::optional<steady_clock::time_point> deadline() const override { return asker_->deadline(); }
  [[nodiscard]] bool done() const override { return done_; }
  void OnCancel(std::function<void()> callback) override {
    if (done_) return callback();
    on_cancel_ = std::move(callback);
  }
  void OnMessage(std::function<void(std::optional<rpc::Slice>)> /*callback*/) override {}  // it is a unary call
  void PauseMessages(bool /*paused*/) override {}
  void Send(rpc::Message message) override {
    if (message.slices().size() == 1) {
      answer_ = message.slices().front();
    } else {
      answer_ = rpc::Slice::Own(message.Flatten());
    }
  }
  [[nodiscard]] std::size_t unsent_bytes() const override { return 0; }
  void OnSent(std::function<void()> /*callback*/) override {}
  using ServerCall::Finish;
  void Finish(Status status, rpc::Metadata /*trailers*/) override {
    if (std::exchange(done_, true)) return;
    const std::shared_ptr<LocalCall> held = shared_from_this();
    owner_->running_.erase(held);
    on_cancel_ = nullptr;
    if (!status.ok()) return asker_->Tell(OfCalled(status, deployment_), nullptr);
    Result<std::unique_ptr<MeshReply>> reply = DecodeReply(std::move(answer_));
    asker_->Tell(reply.status(), reply.ok() ? std::move(reply).value() : nullptr);
  }

  // Nobody waits for it any more.
  void Cancel() {
    if (std::exchange(done_, true)) return;
    const std::shared_ptr<LocalCall> held = shared_from_this();
    owner_->running_.erase(held);
    if (const std::function<void()> told = std::exchange(on_cancel_, nullptr)) told();
    asker_->Tell({Code::kCancelled, "the call to deployment " + deployment_ + " was cancelled"}, nullptr);
  }

 private:
  Composition* const owner_;
  const std::string deployment_;
  const std::shared_ptr<Asker> asker_;
  const rpc::Metadata metadata_;
  std::function<void()> on_cancel_;
  rpc::Slice answer_;
  bool done_ = false;
};

Composition::Composition(CompositionOptions options, std::shared_ptr<rpc::EventLoop> loop)
    : options_(std::move(options)), loop_(std::move(loop)) {}

Composition::~Composition() { Close(); }

void Composition::MakeCore() {
  core_ = std::make_unique<proxy::Core>(registry_, routing::Policy());
  core_->application = options_.application.name_space + '/' + options_.application.name;
  core_->loop = loop_;
  const auto connect = [this](const proxy::Endpoint& endpoint) {
    rpc::ChannelOptions options;
    if (endpoint.tls) options.tls = options_.tls.value_or(rpc::TlsOptions());
    options.connect_timeout = kReconnectAtMost;
    options.min_backoff = kReconnect;
    options.max_backoff = kReconnectAtMost;
    return rpc::Channel::Create(endpoint.address, std::move(options), loop_);
  };
  const auto changed = [this] {
    loop_->Post([this] {
      if (core_ == nullptr) return;
      for (const auto& paused : std::exchange(core_->pausing, {})) paused->TryAgain();
      core_->waiting.Serve();
    });
  };
  core_->router = std::make_unique<proxy::Router>(
      routing::Policy(), connect, [this](const proxy::Endpoint& endpoint) { follower_->Refused(endpoint); }, changed);
  health_ = std::make_unique<proxy::Health>(*core_->router, *loop_);
}

void Composition::Follow() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (core_ != nullptr || closed_ || options_.etcd.endpoints.empty()) return;
  MakeCore();
  follower_ = std::make_unique<proxy::EndpointFollower>(
      options_.etcd, options_.application, loop_,
      [this](const std::vector<proxy::Endpoint>& endpoints) { core_->router->SetEndpoints(endpoints, core_->now()); });
  // No endpoint is known before the splits are: a request could go to one that must not have it.
  traffic_follower_ = std::make_unique<proxy::TrafficFollower>(
      options_.etcd, options_.application, loop_, [this](const routing::TrafficRecord& record) {
        core_->router->SetTraffic(routing::Traffic(record.splits));
        follower_->Start();  // the first time
      });
  loop_->Post([this] { health_->Start(); });
  traffic_follower_->Start();
}

void Composition::Ask(const MeshQuestion& question, const std::shared_ptr<Asker>& asker) {
  if (options_.etcd.endpoints.empty()) {
    return asker->Tell(
        {Code::kFailedPrecondition, "no etcd endpoint is configured, so other deployments cannot be found"}, nullptr);
  }
  Follow();
  MeshQuestion named = question;
  if (std::string_view(named.model).empty()) named.model = named.deployment;
  Result<std::string> encoded = EncodeQuestion(named);
  if (!encoded.ok()) return asker->Tell(encoded.status(), nullptr);
  proxy::RequestHead head;
  head.deployment = named.deployment;
  head.model = named.model;
  head.version = named.version;
  head.retry_safe = named.run_once == 0;
  const auto call = std::make_shared<LocalCall>(this, named.deployment, asker, TraceOf(named));
  asker->WhenOver([loop = loop_, weak = std::weak_ptr<LocalCall>(call)] {
    loop->Post([weak] {
      if (const std::shared_ptr<LocalCall> late = weak.lock()) late->Cancel();
    });
  });
  loop_->Post([this, call, request = rpc::Slice::Own(std::move(encoded).value()), head = std::move(head)]() mutable {
    Start(call, std::move(request), std::move(head));
  });
}

void Composition::Start(const std::shared_ptr<LocalCall>& call, rpc::Slice request, proxy::RequestHead head) {
  if (core_ == nullptr) return call->Cancel();  // closed meanwhile
  if (call->done()) return;
  running_.insert(call);
  std::make_shared<proxy::ForwardedCall>(*core_, call, std::move(request), std::move(head))->Start();
}

void Composition::Close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  if (core_ == nullptr) return;
  traffic_follower_->Stop();  // which starts the other one
  follower_->Stop();
  loop_->PostAndWait([this] {
    health_->Stop();
    for (const auto& call : std::exchange(running_, {})) call->Cancel();
    core_->router->Close();
  });
  loop_->PostAndWait([this] {  // after what those have posted
    health_.reset();
    core_.reset();
  });
}

}  // namespace mesh::user
