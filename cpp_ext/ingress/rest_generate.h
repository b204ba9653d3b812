// POST to .../generate and .../generate_stream (Triton's "generate" extension): a flat JSON object whose members are
// the model's inputs or parameters, answered by such objects, as one answer or as server-sent events.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "common/status.h"
#include "http/exchange.h"
#include "ingress/instruments.h"
#include "ingress/request_builder.h"
#include "ingress/rest_infer_call.h"
#include "ingress/rest_json.h"
#include "triton/infer.h"

namespace mesh::ingress {

// What counts calls of the two methods.
struct GenerateInstruments {
  explicit GenerateInstruments(metrics::Registry& registry)
      : generate(registry, "Generate"), generate_stream(registry, "GenerateStream") {}
  MethodInstruments generate;
  MethodInstruments generate_stream;
};

class GenerateCall final : public triton::InferCall {
 public:
  // As RestInferCall::Start. `streamed`: answers go out as they come, whatever their number.
  static void Start(std::shared_ptr<http::Exchange> exchange, RestTarget target,
                    std::shared_ptr<GenerateInstruments> instruments, bool streamed);

  GenerateCall(std::shared_ptr<http::Exchange> exchange, RestTarget target,
               std::shared_ptr<GenerateInstruments> instruments, bool streamed);

 private:
  void OnResponse(triton::InferResponse response, bool final) override;
  [[nodiscard]] triton::CallFacts Facts() const override;

  Status Submit();
  Status Read(TRITONSERVER_InferenceRequest* request);
  Result<std::string> Encode(const triton::InferResponse& response);
  // One answer of the model, good or bad.
  void Keep(Result<std::string> answer);
  void SendEvent(const std::string& json, int http_status);
  void Finish();
  void Count(const Status& status);  // and logs a failure
  void End();

  const RestTarget target_;
  const std::shared_ptr<GenerateInstruments> instruments_;
  const bool streamed_;
  const std::chrono::steady_clock::time_point started_;
  const std::shared_ptr<http::Exchange> exchange_;
  RequestExtras extras_;
  std::optional<JsonRoom> room_;         // of the values in the extras
  std::shared_ptr<RequestTrace> trace_;  // null for a request that is not traced

  std::mutex mutex_;  // guards what follows: a model may answer from several threads
  bool begun_ = false;
  std::size_t answers_ = 0;
  Result<std::string> first_ = std::string();
};

}  // namespace mesh::ingress
