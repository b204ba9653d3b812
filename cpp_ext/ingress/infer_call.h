// One ModelInfer call, from its message to its answer.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>

#include "common/status.h"
#include "ingress/instruments.h"
#include "ingress/request_builder.h"
#include "ingress/request_trace.h"
#include "rpc/message.h"
#include "rpc/server.h"
#include "triton/infer.h"
#include "triton/server.h"

namespace mesh::ingress {

class ModelInferCall final : public triton::InferCall {
 public:
  // Answers `call` for the encoded ModelInferRequest in `request`: now, when something is wrong with it, else when
  // Triton has answered. Never throws. `server` must stay until the instruments count it as ended.
  static void Start(std::shared_ptr<rpc::ServerCall> call, rpc::Slice request, const triton::Server& server,
                    const SharedMemory& shared_memory, std::shared_ptr<Instruments> instruments);

  ModelInferCall(std::shared_ptr<rpc::ServerCall> call, rpc::Slice request, const triton::Server& server,
                 std::shared_ptr<Instruments> instruments);
  ~ModelInferCall() override;

 private:
  void OnResponse(triton::InferResponse response, bool final) override;
  void OnReleased() override;
  [[nodiscard]] triton::CallFacts Facts() const override;

  Result<char*> Place(std::string_view output, std::size_t size) override { return PlaceOutput(extras_, output, size); }

  Status Submit(const SharedMemory& shared_memory);
  void FollowCancel();
  Status Answer(const triton::InferResponse& response);
  void End(const Status& status, rpc::Message message);
  [[nodiscard]] TraceContext trace_context() const;  // before the end

  const triton::Server& server_;
  const std::shared_ptr<Instruments> instruments_;
  const std::chrono::steady_clock::time_point started_;
  std::shared_ptr<rpc::ServerCall> call_;  // until the answer
  rpc::Slice request_;                     // until Triton has released the inputs
  RequestExtras extras_;
  std::shared_ptr<RequestTrace> trace_;  // null for most
  std::atomic<bool> ended_{false};
  std::array<char, 256> scratch_;  // most answers fit
};

}  // namespace mesh::ingress
