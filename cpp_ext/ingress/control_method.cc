#include "ingress/control_method.h"

#include <chrono>
#include <exception>
#include <memory>
#include <utility>

#include "ingress/failure.h"
#include "ingress/instruments.h"

namespace mesh::ingress {

void AddControlMethod(rpc::Server& server, metrics::Registry& registry, const std::string& method,
                      ControlHandler handler) {
  const auto counts = std::make_shared<MethodInstruments>(registry, method);
  server.AddUnary("/inference.GRPCInferenceService/" + method,
                  [handler = std::move(handler), counts, method](const std::shared_ptr<rpc::ServerCall>& call,
                                                                 const rpc::Slice& request) {
                    const auto started = std::chrono::steady_clock::now();
                    Result<std::string> answer = std::string();
                    try {
                      answer = handler(*call, request.view());
                    } catch (const std::exception& error) {
                      answer = InternalFailure(method, error.what());
                    }
                    counts->Count(answer.status().code(), std::chrono::steady_clock::now() - started);
                    if (answer.ok()) return call->Reply(rpc::Message(std::move(answer).value()));
                    call->Finish(answer.status());
                  });
}

}  // namespace mesh::ingress
