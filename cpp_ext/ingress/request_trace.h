// The trace of one request: what Triton and the ingress report of it, as JSON.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "ingress/trace_context.h"
#include "triton/trace.h"

namespace mesh::ingress {

class TraceSampler;

// Thread-safe. Gives its text to the sampler when nobody refers to it any more, that is after Triton's last report and
// after the answer.
class RequestTrace final : public triton::TraceListener {
 public:
  explicit RequestTrace(std::shared_ptr<TraceSampler> sampler);
  ~RequestTrace() override;

  // The number by which Triton knows the request; before anything is reported.
  void SetId(std::uint64_t id) { id_ = id; }
  // Which trace of the caller's the request belongs to; before anything is reported.
  void SetContext(const TraceContext& context) {
    traceparent_ = context.traceparent;
    tracestate_ = context.tracestate;
  }
  // A step of the ingress itself, named as `tritonserver` names it.
  void Mark(const char* step, std::chrono::steady_clock::time_point when = std::chrono::steady_clock::now());

  void OnActivity(const triton::TraceView& trace, bool begins, const char* activity, std::uint64_t ns) override;
  void OnTensor(const triton::TraceView& trace, const char* activity, const triton::TracedTensor& tensor) override;

 private:
  void Add(std::uint64_t id, const std::string& text);

  const std::shared_ptr<TraceSampler> sampler_;
  std::uint64_t id_ = 0;
  std::string traceparent_;
  std::string tracestate_;
  std::mutex mutex_;
  std::map<std::uint64_t, std::string> texts_;  // by execution; guarded by mutex_
};

}  // namespace mesh::ingress
