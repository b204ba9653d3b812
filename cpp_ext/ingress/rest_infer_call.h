// One POST to .../infer, from its body to its answer.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "common/status.h"
#include "http/exchange.h"
#include "ingress/instruments.h"
#include "ingress/request_builder.h"
#include "ingress/rest_infer_reader.h"
#include "rpc/compression.h"
#include "triton/infer.h"
#include "triton/server.h"

namespace mesh::ingress {

// The model that a path names, and what answers for it; the server and the memory must stay until the instruments
// count no request as running.
struct RestTarget {
  std::string model;
  std::int64_t version = triton::kAnyVersion;
  const triton::Server& server;
  const SharedMemory& shared_memory;
  std::shared_ptr<Instruments> instruments;
};

// Memory for what reading `json_bytes` of JSON may take, counted in the exchange's budget until it goes away.
class JsonRoom {
 public:
  // UNAVAILABLE when there is no room, INVALID_ARGUMENT for more than a request may have.
  static Result<JsonRoom> Take(const http::Exchange& exchange, std::size_t json_bytes);
  ~JsonRoom() {
    if (budget_ != nullptr) budget_->Give(taken_);
  }
  JsonRoom(JsonRoom&& other) noexcept : budget_(std::move(other.budget_)), taken_(other.taken_) {}
  JsonRoom(const JsonRoom&) = delete;
  JsonRoom& operator=(const JsonRoom&) = delete;
  JsonRoom& operator=(JsonRoom&&) = delete;

  // The tree is gone; what stays are the values that were read.
  void KeepOnly(const RequestExtras& extras);

 private:
  JsonRoom(std::shared_ptr<rpc::ReceiveBudget> budget, std::size_t taken) : budget_(std::move(budget)), taken_(taken) {}
  std::shared_ptr<rpc::ReceiveBudget> budget_;
  std::size_t taken_;
};

class RestInferCall final : public triton::InferCall {
 public:
  // Answers the exchange: now, when something is wrong with the request, else when Triton has answered. Never throws.
  static void Start(std::shared_ptr<http::Exchange> exchange, RestTarget target);

  RestInferCall(std::shared_ptr<http::Exchange> exchange, RestTarget target);

 private:
  void OnResponse(triton::InferResponse response, bool final) override;
  void OnReleased() override { body_ = {}; }
  [[nodiscard]] triton::CallFacts Facts() const override { return {exchange_->request().Headers(), std::nullopt, {}}; }
  Result<char*> Place(std::string_view output, std::size_t size) override { return PlaceOutput(extras_, output, size); }

  Status Submit();
  Status Read(TRITONSERVER_InferenceRequest* request);
  Status ReadRaw(TRITONSERVER_InferenceRequest* request);
  void FollowCancel();
  Status Answer(const triton::InferResponse& response);
  [[nodiscard]] TraceContext trace_context() const;  // before the end
  void End(const Status& status, http::Response response);

  const RestTarget target_;
  const std::chrono::steady_clock::time_point started_;
  std::shared_ptr<http::Exchange> exchange_;  // until the answer
  rpc::Slice body_;                           // until Triton has released the inputs, if they lie in it
  RequestExtras extras_;
  std::optional<JsonRoom> room_;  // of the values in the extras
  OutputForms forms_;
  rpc::Encoding encoding_ = rpc::Encoding::kIdentity;  // of the answer
  std::shared_ptr<RequestTrace> trace_;                // null for a request that is not traced
  std::atomic<bool> ended_{false};
};

// Whether the model gives one answer per request. NOT_FOUND, UNAVAILABLE as Triton says it.
Result<bool> IsDecoupled(const RestTarget& target);

}  // namespace mesh::ingress
