#include "proxy/service.h"

#include <string>
#include <utility>

#include "proxy/forwarded_call.h"
#include "proxy/forwarded_stream.h"
#include "proxy/request_head.h"
#include "proxy/sides.h"

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

Status Service::Read(const rpc::ServerCall& call, const rpc::Slice& request, ReadHead read, RequestHead* head) {
  if (Status bad = read(request.view(), head); !bad.ok()) return bad;
  ReadMetadataHead(call.metadata(), core_.router->policy().hash_key, head);
  return {};
}

void Service::Forward(const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request, ReadHead read) {
  if (draining_.load(std::memory_order_relaxed)) return call->Finish(Draining());
  RequestHead head;
  if (Status bad = Read(*call, request, read, &head); !bad.ok()) return call->Finish(std::move(bad));
  if (read == ReadInferHead && !core_.router->traffic().empty()) ChooseShadow(core_, call->metadata(), &head);
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
  if (draining_.load(std::memory_order_relaxed)) return call->Finish(Draining());
  RequestHead head;
  if (Status bad = Read(*call, request, ReadModelHead, &head); !bad.ok()) return call->Finish(std::move(bad));
  ChooseSides(core_, call->metadata(), &head);
  const Lack lack = core_.router->Choose(head, {}, core_.now()).lack;
  const bool nobody = lack == Lack::kModel || lack == Lack::kPeers || lack == Lack::kSide;
  if (nobody) return call->Reply(Flag(false));  // as a server says it
  std::make_shared<ForwardedCall>(core_, call, std::move(request), std::move(head))->Start();
}

void Service::Register(rpc::Server& server) {
  const auto path = [](const char* method) { return std::string(kPrefix) + method; };
  server.AddUnary(path("ServerLive"), [](const auto& call, const rpc::Slice&) { call->Reply(Flag(true)); });
  server.AddUnary(path("ServerReady"), [this](const auto& call, const rpc::Slice&) { Ready(call); });
  server.AddUnary(path("ModelReady"), [this](const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request) {
    ModelReady(call, std::move(request));
  });
  server.AddUnary(path("ModelInfer"), [this](const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request) {
    Forward(call, std::move(request), ReadInferHead);
  });
  for (const char* method : {"ModelMetadata", "ModelConfig", "ModelStatistics"}) {
    server.AddUnary(path(method), [this](const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request) {
      Forward(call, std::move(request), ReadModelHead);
    });
  }
  for (const char* method : {"ServerMetadata", "RepositoryIndex"}) {
    server.AddUnary(path(method), [this](const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request) {
      Forward(call, std::move(request), NoHead);
    });
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
