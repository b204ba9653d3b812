// KServe v2 (Open Inference Protocol) over HTTP, with Triton's extensions: what `tritonclient.http` and curl use.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "common/status.h"
#include "http/exchange.h"
#include "ingress/rest_generate.h"
#include "ingress/rest_json.h"
#include "ingress/rest_route.h"
#include "ingress/service.h"

namespace mesh::ingress {

class RestService {
 public:
  using Text = std::function<Result<std::string>()>;

  // Answers for the same models, regions and counters as `service`, which must live longer; so must `metrics`, which
  // makes the body of /metrics. Lives until the rpc::Server it is registered with was stopped.
  RestService(KServeService& service, Text metrics);

  void Register(rpc::Server& server);  // before its Start

 private:
  using Call = std::shared_ptr<http::Exchange>;
  // The JSON of an answer; an empty one has no body.
  using Control = Result<std::string> (RestService::*)(http::Exchange& exchange, const Route& route);
  struct Method {
    const char* http;  // "GET", "POST", or "" for both
    const char* name;  // as in gRPC and in metrics
    Control control;   // null: not answered at once
  };
  using Methods = std::map<std::pair<Route::Kind, Route::Action>, Method>;
  static const Methods& AllMethods();

  void Handle(const Call& call);
  void Answer(const Call& call, const Route& route, const Method& method);
  MethodInstruments& InferCounts(Route::Kind kind);
  void Infer(const Call& call, const Route& route);
  // Loads or unloads a model.
  void ControlModel(const Call& call, const Route& route, const Method& method);
  // The JSON of a small request. Throws JsonFault.
  static rapidjson::Document ParseBody(http::Exchange& exchange);

  Result<std::string> ServerMetadata(http::Exchange& exchange, const Route& route);
  Result<std::string> ServerLive(http::Exchange& exchange, const Route& route);
  Result<std::string> ServerReady(http::Exchange& exchange, const Route& route);
  Result<std::string> ModelMetadata(http::Exchange& exchange, const Route& route);
  Result<std::string> ModelReady(http::Exchange& exchange, const Route& route);
  Result<std::string> ModelConfig(http::Exchange& exchange, const Route& route);
  Result<std::string> ModelStatistics(http::Exchange& exchange, const Route& route);
  Result<std::string> RepositoryIndex(http::Exchange& exchange, const Route& route);
  Result<std::string> TraceSetting(http::Exchange& exchange, const Route& route);
  Result<std::string> LogSettings(http::Exchange& exchange, const Route& route);
  Result<std::string> SystemSharedMemoryStatus(http::Exchange& exchange, const Route& route);
  Result<std::string> SystemSharedMemoryRegister(http::Exchange& exchange, const Route& route);
  Result<std::string> SystemSharedMemoryUnregister(http::Exchange& exchange, const Route& route);
  Result<std::string> CudaSharedMemoryStatus(http::Exchange& exchange, const Route& route);
  Result<std::string> CudaSharedMemoryRegister(http::Exchange& exchange, const Route& route);
  Result<std::string> CudaSharedMemoryUnregister(http::Exchange& exchange, const Route& route);

  KServeService& service_;
  triton::Server& triton_;
  const http::Handler metrics_;
  const std::shared_ptr<GenerateInstruments> generate_;
  std::map<std::string_view, std::shared_ptr<MethodInstruments>> counts_;  // of all but inference
};

}  // namespace mesh::ingress
