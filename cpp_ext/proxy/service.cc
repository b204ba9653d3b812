#include "proxy/service.h"

#include <string>
#include <utility>

#include "proxy/forwarded_call.h"
#include "proxy/forwarded_stream.h"
#include "proxy/queued_call.h"
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

Result<Core*> Service::Read(const rpc::ServerCall& call, const rpc::Slice& request, ReadHead read, RequestHead* head) {
  if (Status bad = read(request.view(), head); !bad.ok()) return bad;
  ReadMetadataHead(call.metadata(), applications_.policy().hash_key, head);
  return applications_.Of(call.metadata(), head);
}

void Service::Forward(const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request, ReadHead read) {
  if (draining_.load(std::memory_order_relaxed)) return call->Finish(Draining());
  RequestHead head;
  const Result<Core*> found = Read(*call, request, read, &head);
  if (!found.ok()) return call->Finish(found.status());
  Core& core = *found.value();
  if (read == ReadInferHead) {
    if (std::string deployment = PulledDeployment(core, call->metadata(), &head); !deployment.empty()) {
      return Queue(core, call, std::move(request), std::move(head), std::move(deployment));
    }
  }
  if (read == ReadInferHead && !core.router->traffic().empty()) ChooseShadow(core, call->metadata(), &head);
  std::make_shared<ForwardedCall>(core, call, std::move(request), std::move(head))->Start();
}

void Service::Queue(Core& core, const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request, RequestHead head,
                    std::string deployment) {
  if (!head.sequence.empty()) {
    return call->Finish({Code::kUnimplemented,
                         "sequences are not supported by the deployment " + deployment +
                             ", whose requests go through a broker (dispatch: pull), as their state is at one replica: "
                             "send them to it itself (`mesh endpoints` shows the addresses)"});
  }
  std::make_shared<QueuedCall>(core, call, std::move(request), std::move(head), std::move(deployment))->Start();
}

void Service::ForwardStream(const std::shared_ptr<rpc::ServerCall>& call) {
  if (draining_.load(std::memory_order_relaxed)) return call->Finish(Draining());
  if (Core* only = applications_.only(); only != nullptr)
    return std::make_shared<ForwardedStream>(*only, call)->Start();
  call->OnMessage([this, call](std::optional<rpc::Slice> first) { OpenStream(call, std::move(first)); });
}

// At the edge the first request says which application the stream is for.
void Service::OpenStream(const std::shared_ptr<rpc::ServerCall>& call, std::optional<rpc::Slice> first) {
  if (!first) return call->Finish(Status());  // it asked nothing
  RequestHead head;
  const Result<Core*> found = Read(*call, *first, ReadInferHead, &head);
  if (!found.ok()) return call->Finish(found.status());
  std::make_shared<ForwardedStream>(*found.value(), call)->Start(std::move(first));
}

void Service::Ready(const std::shared_ptr<rpc::ServerCall>& call) {
  call->Reply(Flag(!draining_.load(std::memory_order_relaxed) && applications_.has_working()));
}

void Service::ModelReady(const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request) {
  if (draining_.load(std::memory_order_relaxed)) return call->Finish(Draining());
  RequestHead head;
  const Result<Core*> found = Read(*call, request, ReadModelHead, &head);
  if (!found.ok() && found.status().code() == Code::kNotFound) return call->Reply(Flag(false));
  if (!found.ok()) return call->Finish(found.status());
  Core& core = *found.value();
  ChooseSides(core, call->metadata(), &head);
  const Lack lack = core.router->Choose(head, {}, core.now()).lack;
  const bool nobody = lack == Lack::kModel || lack == Lack::kPeers || lack == Lack::kSide;
  if (nobody) return call->Reply(Flag(false));  // as a server says it
  std::make_shared<ForwardedCall>(core, call, std::move(request), std::move(head))->Start();
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
  server.AddUnary(path("ServerMetadata"), [this](const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request) {
    Forward(call, std::move(request), NoHead);
  });
  server.AddUnary(path("RepositoryIndex"), [this](const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request) {
    if (const std::optional<std::string> known = applications_.Index(call->metadata())) {
      return call->Reply(rpc::Message(*known));
    }
    Forward(call, std::move(request), NoHead);
  });
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
