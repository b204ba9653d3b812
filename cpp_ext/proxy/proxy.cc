#include "proxy/proxy.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "common/host.h"
#include "common/json.h"
#include "common/log.h"
#include "common/metrics.h"
#include "http/metrics_page.h"
#include "proxy/applications.h"
#include "proxy/core.h"
#include "proxy/edge.h"
#include "proxy/endpoint_follower.h"
#include "proxy/health.h"
#include "proxy/service.h"
#include "proxy/traffic_book.h"
#include "proxy/traffic_follower.h"
#include "registry/registrar.h"
#include "rpc/health.h"
#include "rpc/reflection.h"
#include "rpc/server_metrics.h"

namespace mesh::proxy {
namespace {

constexpr char kServiceName[] = "inference.GRPCInferenceService";
constexpr std::chrono::milliseconds kReconnect{100};
constexpr std::chrono::milliseconds kReconnectAtMost{1000};
// As for replicas: until watchers have heard that it left discovery, requests are still taken.
constexpr std::chrono::milliseconds kLeaveTime{300};

std::string At(const std::string& host, int port) {
  return (host.find(':') == std::string::npos ? host : '[' + host + ']') + ':' + std::to_string(port);
}

rpc::ServerOptions ServerOptionsOf(const ProxyConfig& config) {
  rpc::ServerOptions options;
  options.host = config.listening.host;
  options.port = config.listening.port;
  options.event_loops = 1;  // on which everything else lives, too
  options.max_message_bytes = config.max_message_bytes;
  options.busy_poll = config.busy_poll;
  options.tls = config.serving_tls;
  options.log = [](std::string_view event, std::string_view detail) { log::Warning(event, {{"detail", detail}}); };
  return options;
}

// Endpoints that are named in the configuration.
std::vector<Endpoint> FixedEndpoints(const std::vector<std::string>& addresses, bool tls) {
  std::vector<Endpoint> endpoints;
  for (const std::string& address : addresses) {
    Endpoint endpoint;
    endpoint.id = address;
    endpoint.address = address;
    endpoint.ready = true;
    endpoint.tls = tls;
    endpoints.push_back(std::move(endpoint));
  }
  return endpoints;
}

}  // namespace

// In the order in which it starts; it stops in the opposite one.
class Proxy::Impl {
 public:
  explicit Impl(ProxyConfig config)
      : config_(std::move(config)),
        server_(ServerOptionsOf(config_)),
        core_(metrics_, config_.policy),
        one_(core_),
        edge_(metrics_, config_.policy, [this](Core* core) { Equip(core); }),
        service_(config_.edge ? static_cast<Applications&>(edge_) : one_) {}

  Status Start() {
    if (Status status = log::Configure(config_.log); !status.ok()) return status;
    if (Status status = server_.Prepare(); !status.ok()) return status;
    core_.loop = server_.loop();
    if (!config_.edge) MakeRouter();
    if (Status status = AddServices(); !status.ok()) return status;
    if (!config_.edge) core_.loop->Post([this] { health_->Start(); });
    if (Status status = server_.Start(); !status.ok()) return status;
    metrics_server_ = http::NewMetricsServer(config_.listening.host, [this] { return MetricsText(); });
    if (Status status = metrics_server_->Start(); !status.ok()) return status;
    FollowAndRegister();
    log::Info("proxy ready", {{"address", address()}, {"busy_poll_us", std::int64_t{config_.busy_poll.count()}}});
    return {};
  }

  bool Drain(std::chrono::milliseconds limit) {
    phase_.store(Phase::kDraining);
    const auto until = std::chrono::steady_clock::now() + limit;
    if (registrar_ != nullptr) {
      registrar_->Update(ProxyEndpointJson(config_, address(), metrics_address(), "draining"));
      std::unique_lock<std::mutex> lock(stopping_);
      stop_began_.wait_for(lock, std::min(limit, kLeaveTime), [this] { return stopped_; });
    }
    service_.SetDraining();
    grpc_health_.Drain();
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    const bool finished = server_.Drain(std::max(left, std::chrono::milliseconds(0)));
    if (registrar_ != nullptr) registrar_->Withdraw();
    phase_.store(Phase::kDrained);
    log::Info("proxy drained", {{"finished", finished}});
    return finished;
  }

  void Stop() {
    const std::lock_guard<std::mutex> lock(stopping_);  // a second caller waits until the first has done it
    if (std::exchange(stopped_, true)) return;
    stop_began_.notify_all();
    if (registrar_ != nullptr) registrar_->Withdraw();
    if (traffic_follower_ != nullptr) traffic_follower_->Stop();  // which starts the other one
    if (traffic_book_ != nullptr) traffic_book_->Stop();          // as does this one
    if (follower_ != nullptr) follower_->Stop();
    if (broker_follower_ != nullptr) broker_follower_->Stop();
    if (core_.loop != nullptr) core_.loop->PostAndWait([this] { StopHealth(); });
    if (metrics_server_ != nullptr) metrics_server_->Stop();
    server_metrics_.reset();
    server_.Stop();
    if (core_.router != nullptr) core_.router->Close();
    if (core_.brokers != nullptr) core_.brokers->Close();
    edge_.Close();
    phase_.store(Phase::kDrained);
  }

  [[nodiscard]] std::string address() const { return At(config_.listening.advertise_host, server_.port()); }
  [[nodiscard]] std::string metrics_address() const {
    return metrics_server_ == nullptr ? "" : At(config_.listening.advertise_host, metrics_server_->port());
  }

  [[nodiscard]] std::string Report(const std::string& refused) const {
    const std::int64_t lease = registrar_ == nullptr ? 0 : registrar_->lease();
    const std::string state = State();
    return json::Dump(
        {{"id", config_.id},
         {"state", state},
         {"reason", state == "loading" ? "waits for etcd to name the application's endpoints and traffic splits" : ""},
         {"address", address()},
         {"metricsAddress", metrics_address()},
         {"pid", std::to_string(ProcessId())},
         {"lease", std::to_string(lease)},
         {"registered", registrar_ != nullptr && registrar_->registered()},
         {"inFlight", std::to_string(server_.stats().calls_open)},
         {"revision", std::to_string(config_.revision)},
         {"refused", refused},
         {"load", {{"cpuS", ReadProcessUsage().cpu_s}, {"waiting", std::to_string(core_.waiting.size())}}}});
  }

 private:
  enum class Phase { kServing, kDraining, kDrained };

  [[nodiscard]] const char* State() const {
    switch (phase_.load()) {
      case Phase::kDraining: return "draining";
      case Phase::kDrained: return "drained";
      case Phase::kServing: break;
    }
    return follower_ == nullptr || follower_->listed() ? "ready" : "loading";
  }

  void MakeRouter() {
    core_.application = config_.application.Full();
    Equip(&core_);
    health_ = std::make_unique<Health>(*core_.router, *core_.loop);
  }

  void StopHealth() {
    if (health_ != nullptr) health_->Stop();
    edge_.Stop();
  }

  // What the core of an application needs of the process.
  void Equip(Core* core) {
    core->hold_s = config_.hold_s;
    core->loop = core_.loop;
    const auto connect = [this](const Endpoint& endpoint) {
      rpc::ChannelOptions options;
      if (endpoint.tls) options.tls = config_.endpoint_tls.value_or(rpc::TlsOptions());
      options.connect_timeout = kReconnectAtMost;
      options.min_backoff = kReconnect;
      options.max_backoff = kReconnectAtMost;
      return rpc::Channel::Create(endpoint.address, std::move(options), core_.loop);
    };
    core->brokers = std::make_unique<Brokers>(connect);
    core->router = std::make_unique<Router>(
        config_.policy, connect,
        [this](const Endpoint& endpoint) {
          if (follower_ != nullptr) follower_->Refused(endpoint);
        },
        [this] { Changed(); });
  }

  // Requests that wait may find a peer now.
  void Changed() {
    core_.loop->Post([this] {
      if (config_.edge) return edge_.Changed();
      for (const auto& paused : std::exchange(core_.pausing, {})) paused->TryAgain();
      core_.waiting.Serve();
    });
  }

  Status AddServices() {
    service_.Register(server_);
    grpc_health_.Register(&server_);
    grpc_health_.SetStatus(kServiceName, rpc::ServingStatus::kServing);
    Result<std::unique_ptr<rpc::ReflectionService>> reflection =
        rpc::ReflectionService::Create({rpc::OpenInferenceDescriptors()});
    if (!reflection.ok()) return reflection.status();
    reflection_ = std::move(reflection).value();
    reflection_->Register(&server_);
    server_metrics_ = std::make_unique<rpc::ServerMetrics>(metrics_, server_);
    return {};
  }

  void FollowAll() {
    follower_ = std::make_unique<EndpointFollower>(
        config_.etcd, config_.application, core_.loop,
        [this](const std::vector<Endpoint>& endpoints) { edge_.SetEndpoints(endpoints, core_.now()); });
    TrafficBook::Told told;
    told.changed = [this](const std::string& application, const routing::TrafficRecord& record) {
      edge_.SetTraffic(application, record);
    };
    told.listed = [this] { follower_->Start(); };  // as for one application: not before the splits are known
    traffic_book_ = std::make_unique<TrafficBook>(config_.etcd, config_.application.name_space, core_.loop, told);
    traffic_book_->Start();
  }

  void FollowAndRegister() {
    if (config_.edge) return FollowAll();
    const auto take = [this](const std::vector<Endpoint>& endpoints) {
      core_.router->SetEndpoints(endpoints, core_.now());
    };
    if (!config_.endpoints.empty()) {
      core_.loop->Post([this, take] {
        core_.router->SetTraffic({});
        take(FixedEndpoints(config_.endpoints, config_.endpoint_tls.has_value()));
      });
    } else {
      follower_ = std::make_unique<EndpointFollower>(config_.etcd, config_.application, core_.loop, take);
      broker_follower_ = std::make_unique<EndpointFollower>(
          config_.etcd, config_.application, core_.loop,
          [this](const std::vector<Endpoint>& endpoints) { core_.brokers->SetEndpoints(endpoints); }, kBrokerRole);
      traffic_follower_ =
          std::make_unique<TrafficFollower>(config_.etcd, config_.application, core_.loop,
                                            [this](const routing::TrafficRecord& record) { SplitTraffic(record); });
      traffic_follower_->Start();
    }
    if (config_.etcd.endpoints.empty()) return;
    registrar_ = std::make_unique<registry::Registrar>(
        config_.etcd, ProxyEndpointKey(config_), ProxyEndpointJson(config_, address(), metrics_address(), "ready"));
    registrar_->Start();
  }

  // No endpoint is known before the splits are: a request could go to one that must not have it, or to its broker.
  void SplitTraffic(const routing::TrafficRecord& record) {
    log::Info("traffic splits", {{"splits", static_cast<std::int64_t>(record.splits.size())},
                                 {"of_generation", record.generation},
                                 {"of_revision", record.revision}});
    core_.router->SetTraffic(routing::Traffic(record.splits));
    follower_->Start();  // the first time
    broker_follower_->Start();
  }

  // On the metrics server's thread: the numbers are the loop's.
  Result<std::string> MetricsText() {
    core_.loop->PostAndWait([this] {
      const Totals totals = config_.edge ? edge_.Sum() : TotalsOf(core_);
      core_.metrics.waiting.Set(static_cast<double>(totals.waiting));
      core_.metrics.in_flight.Set(static_cast<double>(totals.running));
      core_.metrics.endpoints_ready.Set(static_cast<double>(totals.ready));
      core_.metrics.endpoints_draining.Set(static_cast<double>(totals.draining));
      core_.metrics.endpoints_ejected.Set(static_cast<double>(totals.ejected));
      core_.metrics.ejections.Add(totals.counts.ejections - core_.metrics.ejections.value());
      core_.metrics.restored.Add(totals.counts.restored - core_.metrics.restored.value());
    });
    return metrics_.Text();
  }

  const ProxyConfig config_;
  metrics::Registry metrics_;
  rpc::Server server_;
  Core core_;  // of the one application; at the edge only its loop and metrics are used
  OneApplication one_;
  Edge edge_;
  Service service_;
  rpc::HealthService grpc_health_;
  std::unique_ptr<rpc::ReflectionService> reflection_;
  std::unique_ptr<rpc::ServerMetrics> server_metrics_;
  std::unique_ptr<Health> health_;
  std::unique_ptr<EndpointFollower> follower_;
  std::unique_ptr<EndpointFollower> broker_follower_;
  std::unique_ptr<TrafficFollower> traffic_follower_;
  std::unique_ptr<TrafficBook> traffic_book_;
  std::unique_ptr<registry::Registrar> registrar_;
  std::unique_ptr<rpc::Server> metrics_server_;
  std::atomic<Phase> phase_{Phase::kServing};
  std::condition_variable stop_began_;
  std::mutex stopping_;
  bool stopped_ = false;  // guarded by stopping_
};

Proxy::Proxy(ProxyConfig config) : impl_(std::make_unique<Impl>(std::move(config))) {}
Proxy::~Proxy() { Stop(); }
Status Proxy::Start() { return impl_->Start(); }
bool Proxy::Drain(std::chrono::milliseconds limit) { return impl_->Drain(limit); }
void Proxy::Stop() { impl_->Stop(); }
std::string Proxy::address() const { return impl_->address(); }
std::string Proxy::metrics_address() const { return impl_->metrics_address(); }
std::string FailedReport(const std::string& reason) {
  return json::Dump({{"state", "failed"}, {"reason", reason}, {"pid", std::to_string(ProcessId())}});
}

std::string Proxy::Report(const std::string& refused) const { return impl_->Report(refused); }

}  // namespace mesh::proxy
