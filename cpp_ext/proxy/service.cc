#include "proxy/service.h"

#include <string>
#include <utility>

#include "proxy/forwarded_call.h"
#include "proxy/forwarded_stream.h"
#include "proxy/request_head.h"

namespace mesh::proxy {
namespace {

constexpr char kPrefix[] = "/inference.GRPCInferenceService/";

// What is of one process, so that a proxy of many cannot do it for all.
constexpr const char* kOfOneProcess[] = {
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
};

// Answers whose only field, a bool, is the first one: ServerLive, ServerReady, ModelReady.
rpc::Message Flag(bool value) { return rpc::Message(value ? std::string("\x08\x01", 2) : std::string()); }

Status Draining() {
  return {Code::kUnavailable, "this proxy is draining and takes no new requests; send them to another endpoint"};
}

Status NoHead(std::string_view /*request*/, RequestHead* /*head*/) { return {}; }

}  // namespace

void Service::Forward(const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request, ReadHead read) {
  if (draining_.load(std::memory_order_relaxed)) return call->Finish(Draining());
  RequestHead head;
  if (Status bad = read(request.view(), &head); !bad.ok()) return call->Finish(std::move(bad));
  ReadMetadataHead(call->metadata(), core_.router->policy().hash_key, &head);
  std::make_shared<ForwardedCall>(core_, call, std::move(request), std::move(head))->Start();
}

void Service::ForwardStream(const std::shared_ptr<rpc::ServerCall>& call) {
  if (draining_.load(std::memory_order_relaxed)) return call->Finish(Draining());
  std::make_shared<ForwardedStream>(core_, call)->Start();
}

void Service::Ready(const std::shared_ptr<rpc::ServerCall>& call) {
  call->Reply(Flag(!draining_.load(std::memory_order_relaxed) && core_.router->has_working()));
}

void Service::ModelReady(const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request) {
  RequestHead head;
  if (Status bad = ReadModelHead(request.view(), &head); !bad.ok()) return call->Finish(std::move(bad));
  ReadMetadataHead(call->metadata(), core_.router->policy().hash_key, &head);
  const Lack lack = core_.router->Choose(head, {}, core_.now()).lack;
  if (lack == Lack::kModel || lack == Lack::kPeers) return call->Reply(Flag(false));  // as a server says it
  Forward(call, std::move(request), ReadModelHead);
}

void Service::Register(rpc::Server& server) {
  const auto path = [](const char* method) { return std::string(kPrefix) + method; };
  server.AddUnary(path("ServerLive"), [](const auto& call, const rpc::Slice&) { call->Reply(Flag(true)); });
  server.AddUnary(path("ServerReady"), [this](const auto& call, const rpc::Slice&) { Ready(call); });
  server.AddUnary(path("ModelReady"),
                  [this](const auto& call, rpc::Slice request) { ModelReady(call, std::move(request)); });
  server.AddUnary(path("ModelInfer"),
                  [this](const auto& call, rpc::Slice request) { Forward(call, std::move(request), ReadInferHead); });
  for (const char* method : {"ModelMetadata", "ModelConfig", "ModelStatistics"}) {
    server.AddUnary(path(method),
                    [this](const auto& call, rpc::Slice request) { Forward(call, std::move(request), ReadModelHead); });
  }
  for (const char* method : {"ServerMetadata", "RepositoryIndex"}) {
    server.AddUnary(path(method),
                    [this](const auto& call, rpc::Slice request) { Forward(call, std::move(request), NoHead); });
  }
  for (const char* method : kOfOneProcess) {
    server.AddUnary(path(method), [method](const auto& call, const rpc::Slice&) {
      call->Finish({Code::kUnimplemented,
                    std::string(method) + " is not supported by a proxy, as it concerns one process: send it to the "
                                          "replica itself (`mesh endpoints` shows the addresses)"});
    });
  }
  server.AddStream(path("ModelStreamInfer"), [this](const auto& call) { ForwardStream(call); });
}

}  // namespace mesh::proxy
