#include "ingress/control_method.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <utility>

#include "ingress/failure.h"
#include "ingress/instruments.h"

namespace mesh::ingress {
namespace {

using std::chrono::steady_clock;

const char* const kPrefix = "/inference.GRPCInferenceService/";

// One call: answered and counted once.
class PendingAnswer {
 public:
  PendingAnswer(std::shared_ptr<rpc::ServerCall> call, std::shared_ptr<MethodInstruments> counts)
      : call_(std::move(call)), counts_(std::move(counts)) {}
  PendingAnswer(const PendingAnswer&) = delete;
  PendingAnswer& operator=(const PendingAnswer&) = delete;
  ~PendingAnswer() {
    if (!answered_.load()) counts_->Count(Code::kCancelled, steady_clock::now() - started_);
  }

  void Give(const Result<std::string>& answer) {
    if (answered_.exchange(true)) return;
    counts_->Count(answer.status().code(), steady_clock::now() - started_);
    if (answer.ok()) return call_->Reply(rpc::Message(answer.value()));
    call_->Finish(answer.status());
  }

 private:
  const std::shared_ptr<rpc::ServerCall> call_;
  const std::shared_ptr<MethodInstruments> counts_;
  const steady_clock::time_point started_ = steady_clock::now();
  std::atomic<bool> answered_{false};
};

}  // namespace

void AddControlMethod(rpc::Server& server, metrics::Registry& registry, const std::string& method,
                      ControlHandler handler) {
  AddWorkerMethod(
      server, registry, method,
      [handler = std::move(handler)](const std::shared_ptr<rpc::ServerCall>& call, const rpc::Slice& request,
                                     const Answer& answer) { answer(handler(*call, request.view())); });
}

void AddWorkerMethod(rpc::Server& server, metrics::Registry& registry, const std::string& method,
                     WorkerHandler handler) {
  const auto counts = std::make_shared<MethodInstruments>(registry, method);
  server.AddUnary(kPrefix + method, [handler = std::move(handler), counts, method](
                                        const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request) {
    const auto pending = std::make_shared<PendingAnswer>(call, counts);
    try {
      handler(call, std::move(request), [pending](const Result<std::string>& answer) { pending->Give(answer); });
    } catch (const std::exception& error) {
      pending->Give(InternalFailure(method, error.what()));
    }
  });
}

}  // namespace mesh::ingress
