#include "deployment/serving_stack.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "common/log.h"
#include "http/metrics_page.h"

namespace mesh::deployment {
namespace {

constexpr char kServiceName[] = "inference.GRPCInferenceService";

triton::ServerOptions TritonOptions(const ReplicaConfig& config, const PreparedNode& node) {
  triton::ServerOptions options;
  options.library = node.triton_library;
  options.repository = node.repository_path;
  options.backend_directory = node.backend_directory;
  options.models = config.models;
  options.backend_settings = config.backends;
  options.runs_code = config.code.has_value();
  options.response_cache_bytes = config.response_cache_bytes;
  options.cache_directory = node.cache_directory;
  options.rate_limiter = config.rate_limiter;
  options.log_verbosity = config.triton_log_verbosity;
  options.log_info = config.triton_log_verbosity > 0 || config.log.level == log::Level::kDebug;
  // Triton's lines go where ours go; it opens the file itself.
  options.log_file = config.log.file;
  return options;
}

// Beside the log: the one place of a replica where a client may have files written.
std::string TraceFile(const std::string& log_file) {
  return std::filesystem::path(log_file).replace_extension(".trace.json").string();
}

std::string HostOf(const std::string& host) {
  return host.find(':') == std::string::npos ? host : '[' + host + ']';  // IPv6
}

}  // namespace

Result<std::unique_ptr<ServingStack>> ServingStack::Start(const ReplicaConfig& config, const PreparedNode& node,
                                                          metrics::Registry& registry, std::vector<ModelState>* models,
                                                          std::function<void(std::vector<ModelState>)> on_models) {
  std::unique_ptr<ServingStack> stack(new ServingStack(config, registry));
  Status status = stack->LoadModels(node, models);
  if (status.ok()) status = stack->LoadCode(node, models);
  if (status.ok()) status = stack->Listen(std::move(on_models));
  if (status.ok()) status = stack->ServeMetrics();
  if (!status.ok()) return status;
  return stack;
}

Status ServingStack::LoadModels(const PreparedNode& node, std::vector<ModelState>* models) {
  Result<std::unique_ptr<triton::Server>> started = triton::Server::Start(TritonOptions(config_, node));
  if (!started.ok()) return started.status();
  triton_ = std::move(started).value();
  if (Status status = ReadIndex(models); !status.ok()) return status;
  std::string reasons;
  for (const triton::ModelLoad& load : triton_->loads()) {
    if (load.status.ok()) continue;
    reasons += (reasons.empty() ? "model " : "; model ") + load.name + ": " + load.status.message();
  }
  if (!reasons.empty()) return {Code::kFailedPrecondition, reasons};
  return {};
}

Status ServingStack::LoadCode(const PreparedNode& node, std::vector<ModelState>* models) {
  if (!config_.code) return {};
  Result<std::unique_ptr<user::UserCode>> loaded = user::UserCode::Load(CodeOptions(node), *triton_);
  if (!loaded.ok()) return loaded.status();
  code_ = std::move(loaded).value();
  return ReadIndex(models);
}

user::Options ServingStack::CodeOptions(const PreparedNode& node) const {
  const CodeConfig& code = *config_.code;
  user::Options options;
  options.library = (std::filesystem::path(node.code_path) / code.library).string();
  options.args = code.args;
  options.config = code.config;
  options.deployment = config_.deployment;
  options.model = code.model;
  options.application = config_.application;
  options.replica = config_.id;
  options.code_folder = node.code_path;
  options.model_folder = node.repository_path;
  options.backend_directory = node.backend_directory;
  options.threads = static_cast<std::size_t>(code.threads);
  options.composition.etcd = config_.etcd;
  options.composition.application = {config_.name_space, config_.application};
  options.composition.tls = config_.serving_tls;
  return options;
}

Status ServingStack::Reconfigure(const std::string& config) {
  if (code_ == nullptr) return {Code::kInvalidArgument, "there is no code of a deployment to be reconfigured"};
  const Status status = code_->Reconfigure(config);
  return status.ok() ? status : Status(Code::kInvalidArgument, status.message());
}

void ServingStack::SetHealthy(bool healthy) {
  service_->SetHealthy(healthy);
  health_->SetStatus(kServiceName, healthy ? rpc::ServingStatus::kServing : rpc::ServingStatus::kNotServing);
  if (pulling_ != nullptr) pulling_->SetWell(healthy);
}

void ServingStack::StartPulling() {
  if (config_.etcd.endpoints.empty()) return;
  const auto serve = [this](const std::shared_ptr<rpc::ServerCall>& call, const rpc::Slice& request) {
    return service_->Take(call, request);
  };
  Result<std::unique_ptr<broker::Pulling>> started = broker::Pulling::Start(PullingOptions(), serve, registry_);
  if (started.ok()) {
    pulling_ = std::move(started).value();
  } else {
    log::Error("the replica cannot ask brokers for work", {{"error", started.status().ToString()}});
  }
}

broker::PullingOptions ServingStack::PullingOptions() const {
  broker::PullingOptions options;
  options.etcd = config_.etcd;
  options.application = {config_.name_space, config_.application};
  options.replica = config_.id;
  options.deployment = config_.deployment;
  options.generation = config_.generation;
  options.revision = config_.revision;
  options.tls = config_.serving_tls;
  return options;
}

void ServingStack::StopPulling() {
  if (pulling_ != nullptr) pulling_->Drain();
}

Status ServingStack::ReadIndex(std::vector<ModelState>* models) const {
  const Result<std::string> index = triton_->Index();
  if (!index.ok()) return index.status();
  Result<std::vector<ModelState>> parsed = ParseIndex(index.value());
  if (!parsed.ok()) return parsed.status();
  *models = std::move(parsed).value();
  return {};
}

Status ServingStack::Update(const std::string& repository, const std::vector<std::string>& wanted,
                            std::vector<ModelState>* models) {
  if (Status status = triton_->SwitchRepository(repository, wanted); !status.ok()) return status;
  // They serve, whether or not they can be listed.
  if (const Status status = ReadIndex(models); !status.ok()) {
    log::Warning("states of models not known", {{"error", status.ToString()}});
  }
  return {};
}

Status ServingStack::Listen(std::function<void(std::vector<ModelState>)> on_models) {
  rpc::ServerOptions options;
  options.host = config_.listen_host;
  options.port = config_.listen_port;
  options.event_loops = config_.event_loops;
  options.max_message_bytes = config_.max_message_bytes;
  options.busy_poll = config_.busy_poll;
  options.tls = config_.serving_tls;
  server_ = std::make_unique<rpc::Server>(std::move(options));
  service_ = std::make_unique<ingress::KServeService>(*triton_, registry_, ServiceOptions(std::move(on_models)));
  service_->Register(*server_);
  rest_ = std::make_unique<ingress::RestService>(*service_, [this] { return MetricsText(); });
  rest_->Register(*server_);
  health_ = std::make_unique<rpc::HealthService>();
  health_->Register(server_.get());
  health_->SetStatus(kServiceName, rpc::ServingStatus::kServing);
  Result<std::unique_ptr<rpc::ReflectionService>> reflection =
      rpc::ReflectionService::Create({rpc::OpenInferenceDescriptors()});
  if (!reflection.ok()) return reflection.status();
  reflection_ = std::move(reflection).value();
  reflection_->Register(server_.get());
  return server_->Start();
}

Status ServingStack::ServeMetrics() {
  rpc_metrics_ = std::make_unique<rpc::ServerMetrics>(registry_, *server_);
  metrics_ = http::NewMetricsServer(config_.listen_host, [this] { return MetricsText(); });
  return metrics_->Start();
}

ingress::ServiceOptions ServingStack::ServiceOptions(std::function<void(std::vector<ModelState>)> on_models) const {
  ingress::ServiceOptions options;
  options.model_control = config_.model_control;
  options.max_requests = config_.max_requests;
  if (!config_.log.file.empty()) options.trace_file = TraceFile(config_.log.file);
  options.on_models_changed = [this, on_models = std::move(on_models)] {
    std::vector<ModelState> models;
    const Status status = ReadIndex(&models);
    if (status.ok()) return on_models(std::move(models));
    log::Warning("states of models not known", {{"error", status.ToString()}});
  };
  return options;
}

Result<std::string> ServingStack::MetricsText() const {
  Result<std::string> tritons = triton_->Metrics();
  if (!tritons.ok()) return tritons;
  return tritons.value() + registry_.Text();
}

ServingStack::~ServingStack() { Stop(); }

std::string ServingStack::address() const {
  return HostOf(config_.advertise_host) + ':' + std::to_string(server_->port());
}

std::string ServingStack::metrics_address() const {
  return HostOf(config_.advertise_host) + ':' + std::to_string(metrics_->port());
}

bool ServingStack::Drain(std::chrono::milliseconds limit) {
  const auto until = std::chrono::steady_clock::now() + limit;
  StopPulling();
  service_->SetDraining();
  health_->Drain();
  const bool served = server_->Drain(limit);
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
  return (pulling_ == nullptr || pulling_->WaitIdle(std::max(left, std::chrono::milliseconds(0)))) && served;
}

bool ServingStack::Stop() {
  pulling_.reset();  // before what its work runs in
  if (metrics_ != nullptr) metrics_->Stop();
  rpc_metrics_.reset();
  if (server_ != nullptr) server_->Stop();
  rest_.reset();
  service_.reset();
  return triton_ == nullptr || StopTriton();
}

bool ServingStack::StopTriton() {
  std::unique_ptr<triton::Server> triton = std::exchange(triton_, nullptr);
  std::unique_ptr<user::UserCode> code = std::exchange(code_, nullptr);
  if (code != nullptr && !code->Close(std::chrono::seconds(triton->options().exit_timeout_s))) {
    log::Warning("code of the deployment did not end");
    static_cast<void>(code.release());
    static_cast<void>(triton.release());
    return false;
  }
  code.reset();
  const Status stopped = triton->Stop();
  if (stopped.ok()) return true;
  log::Warning("triton did not stop cleanly", {{"error", stopped.ToString()}});
  // Answers that come late ask it about their model.
  static_cast<void>(triton.release());
  return false;
}

}  // namespace mesh::deployment
