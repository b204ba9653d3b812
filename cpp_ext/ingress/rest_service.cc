#include "ingress/rest_service.h"

#include <exception>
#include <utility>

#include "http/metrics_page.h"
#include "ingress/failure.h"
#include "ingress/rest_answer.h"

namespace mesh::ingress {
namespace {

using std::chrono::steady_clock;

http::Response MethodNotAllowed(const char* allowed) {
  http::Response response = http::JsonError(405, "Method Not Allowed");
  const std::string_view text(allowed);
  response.headers.emplace_back("Allow", text.empty() ? "GET, POST" : text == "GET" ? "GET, HEAD" : allowed);
  return response;
}

bool IsAllowed(const http::Request& request, std::string_view allowed) {
  if (allowed.empty()) return request.method() == "GET" || request.method() == "POST";
  return request.method() == allowed || (allowed == "GET" && request.is_head());
}

}  // namespace

RestService::RestService(KServeService& service, Text metrics)
    : service_(service),
      triton_(service.triton()),
      metrics_(http::MetricsPage(std::move(metrics))),
      generate_(std::make_shared<GenerateInstruments>(service.instruments()->registry)) {
  for (const auto& [key, method] : AllMethods()) {
    counts_[method.name] = std::make_shared<MethodInstruments>(service.instruments()->registry, method.name);
  }
}

void RestService::Register(rpc::Server& server) {
  server.SetHttp(http::Serve([this](const Call& call) { Handle(call); }));
}

void RestService::Handle(const Call& call) {
  const http::Request& request = call->request();
  const std::optional<Route> route = FindRoute(request.path());
  if (!route.has_value()) return call->Respond(http::JsonError(404, "Not Found"));
  if (route->kind == Route::Kind::kMetrics) return metrics_(call);
  const Method& method = AllMethods().at({route->kind, route->action});
  if (!IsAllowed(request, method.http)) return call->Respond(MethodNotAllowed(method.http));
  if (method.control != nullptr) return Answer(call, *route, method);
  const bool load = route->kind == Route::Kind::kRepositoryModelLoad;
  if (load || route->kind == Route::Kind::kRepositoryModelUnload) return ControlModel(call, *route, method);
  Infer(call, *route);
}

const RestService::Methods& RestService::AllMethods() {
  using Kind = Route::Kind;
  using Action = Route::Action;
  static const Methods methods = [] {
    Methods all;
    const auto add = [&all](Kind kind, Method method) { all[{kind, Action::kStatus}] = method; };
    add(Kind::kServerMetadata, {"GET", "ServerMetadata", &RestService::ServerMetadata});
    add(Kind::kServerLive, {"GET", "ServerLive", &RestService::ServerLive});
    add(Kind::kServerReady, {"GET", "ServerReady", &RestService::ServerReady});
    add(Kind::kModelMetadata, {"GET", "ModelMetadata", &RestService::ModelMetadata});
    add(Kind::kModelReady, {"GET", "ModelReady", &RestService::ModelReady});
    add(Kind::kModelConfig, {"GET", "ModelConfig", &RestService::ModelConfig});
    add(Kind::kModelStatistics, {"GET", "ModelStatistics", &RestService::ModelStatistics});
    add(Kind::kModelInfer, {"POST", "ModelInfer", nullptr});
    add(Kind::kGenerate, {"POST", "Generate", nullptr});
    add(Kind::kGenerateStream, {"POST", "GenerateStream", nullptr});
    add(Kind::kRepositoryIndex, {"POST", "RepositoryIndex", &RestService::RepositoryIndex});
    add(Kind::kRepositoryModelLoad, {"POST", "RepositoryModelLoad", nullptr});
    add(Kind::kRepositoryModelUnload, {"POST", "RepositoryModelUnload", nullptr});
    add(Kind::kTraceSetting, {"", "TraceSetting", &RestService::TraceSetting});
    add(Kind::kLogSettings, {"", "LogSettings", &RestService::LogSettings});
    add(Kind::kSystemSharedMemory, {"GET", "SystemSharedMemoryStatus", &RestService::SystemSharedMemoryStatus});
    add(Kind::kCudaSharedMemory, {"GET", "CudaSharedMemoryStatus", &RestService::CudaSharedMemoryStatus});
    all[{Kind::kSystemSharedMemory, Action::kRegister}] = {"POST", "SystemSharedMemoryRegister",
                                                           &RestService::SystemSharedMemoryRegister};
    all[{Kind::kSystemSharedMemory, Action::kUnregister}] = {"POST", "SystemSharedMemoryUnregister",
                                                             &RestService::SystemSharedMemoryUnregister};
    all[{Kind::kCudaSharedMemory, Action::kRegister}] = {"POST", "CudaSharedMemoryRegister",
                                                         &RestService::CudaSharedMemoryRegister};
    all[{Kind::kCudaSharedMemory, Action::kUnregister}] = {"POST", "CudaSharedMemoryUnregister",
                                                           &RestService::CudaSharedMemoryUnregister};
    return all;
  }();
  return methods;
}

void RestService::Answer(const Call& call, const Route& route, const Method& method) {
  const auto started = steady_clock::now();
  Result<std::string> answer = std::string();
  try {
    answer = (this->*method.control)(*call, route);
  } catch (const JsonFault& fault) {
    answer = fault.status;
  } catch (const std::exception& error) {
    answer = InternalFailure(method.name, error.what());
  }
  counts_.at(method.name)->Count(answer.status().code(), steady_clock::now() - started);
  if (!answer.ok()) return call->Respond(RestError(answer.status()));
  const bool empty = answer.value().empty();
  call->Respond(http::Text(200, empty ? "" : http::kJson, std::move(answer).value()));
}

MethodInstruments& RestService::InferCounts(Route::Kind kind) {
  if (kind == Route::Kind::kGenerate) return generate_->generate;
  if (kind == Route::Kind::kGenerateStream) return generate_->generate_stream;
  return service_.instruments()->infer;
}

void RestService::Infer(const Call& call, const Route& route) {
  const std::shared_ptr<Instruments>& instruments = service_.instruments();
  const auto refuse = [&](const Status& status) {
    InferCounts(route.kind).Count(status.code(), {});
    LogFailedRequest(TraceContextOf(call->request()), "REST infer", status);
    http::Response response = RestError(status);
    response.close = status.code() == Code::kUnavailable;
    call->Respond(std::move(response));
  };
  if (service_.draining()) return refuse(Draining());
  if (const Status full = instruments->Admit(); !full.ok()) return refuse(full);
  Result<std::int64_t> version = ParseVersion(route.version);
  if (!version.ok()) return refuse(version.status());
  RestTarget target{route.model, version.value(), triton_, service_.shared_memory(), instruments};
  if (route.kind == Route::Kind::kModelInfer) return RestInferCall::Start(call, std::move(target));
  GenerateCall::Start(call, std::move(target), generate_, route.kind == Route::Kind::kGenerateStream);
}

}  // namespace mesh::ingress
