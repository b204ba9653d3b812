#include "ingress/service.h"

#include <nlohmann/json.hpp>
#include <protozero/pbf_writer.hpp>
#include <set>
#include <utility>

#include "ingress/control_method.h"
#include "ingress/control_tables.h"
#include "ingress/failure.h"
#include "ingress/infer_call.h"
#include "ingress/infer_message.h"
#include "ingress/repository_methods.h"
#include "ingress/settings_methods.h"
#include "ingress/shared_memory_methods.h"
#include "ingress/text.h"
#include "ingress/trace_context.h"

namespace mesh::ingress {
namespace {

const char* const kPrefix = "/inference.GRPCInferenceService/";

// Extensions that Triton announces and this service does not offer.
std::set<std::string> MissingExtensions(ModelControl control) {
  std::set<std::string> names{"cuda_shared_memory"};
  if (control == ModelControl::kNone) names.insert({"model_repository", "model_repository(unload_dependents)"});
  return names;
}

std::string BoolMessage(bool value) {
  std::string encoded;
  if (value) protozero::pbf_writer(encoded).add_bool(1, true);
  return encoded;
}

// A model's name and version from the request, as Triton's functions take them.
struct ModelName {
  std::string name;
  std::int64_t version = triton::kAnyVersion;
};

Result<ModelName> ParseModelName(std::string_view request) {
  Result<ModelMessage> message = ParseModelMessage(request);
  if (!message.ok()) return message.status();
  Result<std::int64_t> version = ParseVersion(message.value().version);
  if (!version.ok()) return version.status();
  return ModelName{std::string(message.value().name), version.value()};
}

}  // namespace

KServeService::KServeService(triton::Server& triton, metrics::Registry& registry, ServiceOptions options)
    : triton_(triton),
      instruments_(std::make_shared<Instruments>(registry, options.trace_file, options.max_requests)),
      logs_(triton.options()),
      model_control_(options.model_control),
      repository_(triton, options.model_control, std::move(options.on_models_changed)) {
  in_flight_gauge_ = registry.AddGauge("mesh_ingress_in_flight",
                                       "Requests of ModelInfer and ModelStreamInfer that are not answered yet.", {},
                                       [this] { return static_cast<double>(in_flight()); });
  waiting_gauge_ =
      registry.AddGauge("mesh_ingress_repository_calls_waiting", "Calls that wait to load or unload a model.", {},
                        [this] { return static_cast<double>(repository_.waiting()); });
}

KServeService::~KServeService() {
  instruments_->registry.Remove(in_flight_gauge_);
  instruments_->registry.Remove(waiting_gauge_);
}

void KServeService::SetDraining() {
  draining_.store(true);
  streams_->Drain();
  repository_.Drain();
}

std::uint64_t KServeService::in_flight() const { return instruments_->in_flight.load(std::memory_order_acquire); }

void KServeService::Register(rpc::Server& server) {
  server.AddUnary(std::string(kPrefix) + "ModelInfer",
                  [this](std::shared_ptr<rpc::ServerCall> call, rpc::Slice request) {
                    ModelInfer(std::move(call), std::move(request));
                  });
  AddControl(server, "ServerLive", &KServeService::ServerLive);
  AddControl(server, "ServerReady", &KServeService::ServerReady);
  AddControl(server, "ServerMetadata", &KServeService::ServerMetadata);
  AddControl(server, "ModelReady", &KServeService::ModelReady);
  AddControl(server, "ModelMetadata", &KServeService::ModelMetadata);
  AddControl(server, "ModelConfig", &KServeService::ModelConfig);
  AddControl(server, "ModelStatistics", &KServeService::ModelStatistics);
  AddControl(server, "RepositoryIndex", &KServeService::RepositoryIndex);
  server.AddStream(std::string(kPrefix) + "ModelStreamInfer", [this](const std::shared_ptr<rpc::ServerCall>& call) {
    ModelStream::Start(call, triton_, shared_memory_, instruments_, streams_);
  });
  AddRepositoryMethods(server, instruments_->registry, repository_);
  AddSharedMemoryMethods(server, instruments_->registry, shared_memory_);
  AddSettingsMethods(server, instruments_->registry, triton_, instruments_->traces, logs_);
}

void KServeService::AddControl(rpc::Server& server, const std::string& method, Handler handler) {
  AddControlMethod(
      server, instruments_->registry, method,
      [this, handler](const rpc::ServerCall&, std::string_view request) { return (this->*handler)(request); });
}

void KServeService::ModelInfer(std::shared_ptr<rpc::ServerCall> call, rpc::Slice request) {
  if (Status refused = Admit(*call); !refused.ok()) return call->Finish(std::move(refused));
  ModelInferCall::Start(std::move(call), std::move(request), triton_, shared_memory_, instruments_);
}

Status KServeService::Admit(const rpc::ServerCall& call) {
  Status refused = draining() ? Draining() : instruments_->Admit();
  if (refused.ok()) return refused;
  instruments_->infer.CountRefused(refused.code());
  LogFailedRequest(TraceContextOf(call.metadata()), "ModelInfer", refused);
  return refused;
}

Status KServeService::Take(const std::shared_ptr<rpc::ServerCall>& call, const rpc::Slice& request) {
  if (Status refused = Admit(*call); !refused.ok()) return refused;
  if (IsDecoupled(request.view())) {
    ModelStream::Start(call, triton_, shared_memory_, instruments_, streams_);
  } else {
    ModelInferCall::Start(call, request, triton_, shared_memory_, instruments_);
  }
  return {};
}

// What is wrong with the request is for whoever answers it.
bool KServeService::IsDecoupled(std::string_view request) const {
  Result<ModelName> model = ParseModelName(request);
  if (!model.ok()) return false;
  const Result<std::uint32_t> flags = triton_.TransactionFlags(model.value().name.c_str(), model.value().version);
  return flags.ok() && (flags.value() & TRITONSERVER_TXN_DECOUPLED) != 0;
}

Result<std::string> KServeService::ServerLive(std::string_view request) const {
  if (Status status = ParseEmptyMessage(request); !status.ok()) return status;
  return BoolMessage(triton_.IsLive());
}

Result<std::string> KServeService::ServerReady(std::string_view request) const {
  if (Status status = ParseEmptyMessage(request); !status.ok()) return status;
  return BoolMessage(ready());
}

Result<std::string> KServeService::ServerMetadata(std::string_view request) const {
  if (Status status = ParseEmptyMessage(request); !status.ok()) return status;
  Result<std::string> json = MetadataJson();
  return json.ok() ? JsonToProto(json.value(), kServerMetadataTable) : json;
}

Result<std::string> KServeService::MetadataJson() const {
  Result<std::string> json = triton_.Metadata();
  if (!json.ok()) return json;
  nlohmann::ordered_json metadata = nlohmann::ordered_json::parse(json.value());
  const std::set<std::string> missing = MissingExtensions(model_control_);
  nlohmann::ordered_json offered = nlohmann::ordered_json::array();
  for (const nlohmann::ordered_json& extension : metadata["extensions"]) {
    if (missing.count(extension.get<std::string>()) == 0) offered.push_back(extension);
  }
  metadata["extensions"] = std::move(offered);
  return metadata.dump();
}

Result<std::string> KServeService::ModelReady(std::string_view request) const {
  Result<ModelName> model = ParseModelName(request);
  if (!model.ok()) return model.status();
  Result<bool> ready = triton_.IsModelReady(model.value().name, model.value().version);
  if (!ready.ok()) return ready.status();
  return BoolMessage(ready.value());
}

Result<std::string> KServeService::ModelMetadata(std::string_view request) const {
  Result<ModelName> model = ParseModelName(request);
  if (!model.ok()) return model.status();
  Result<std::string> json = triton_.ModelMetadata(model.value().name, model.value().version);
  return json.ok() ? JsonToProto(json.value(), kModelMetadataTable) : json;
}

Result<std::string> KServeService::ModelConfig(std::string_view request) const {
  Result<ModelName> model = ParseModelName(request);
  if (!model.ok()) return model.status();
  Result<std::string> json = triton_.ModelConfig(model.value().name, model.value().version);
  if (!json.ok()) return json;
  Result<std::string> config = JsonToProto(json.value(), kModelConfigTable);
  if (!config.ok()) return config;
  std::string encoded;
  protozero::pbf_writer(encoded).add_message(1, config.value());
  return encoded;
}

Result<std::string> KServeService::ModelStatistics(std::string_view request) const {
  Result<ModelName> model = ParseModelName(request);
  if (!model.ok()) return model.status();
  Result<std::string> json = triton_.Statistics(model.value().name, model.value().version);
  return json.ok() ? JsonToProto(json.value(), kModelStatisticsTable) : json;
}

Result<std::string> KServeService::RepositoryIndex(std::string_view request) const {
  Result<bool> ready_only = ParseIndexMessage(request);
  if (!ready_only.ok()) return ready_only.status();
  Result<std::string> json = triton_.Index(ready_only.value());
  return json.ok() ? JsonArrayToProto(json.value(), 1, kModelIndexTable) : json;
}

}  // namespace mesh::ingress
