#include "ingress/instruments.h"

namespace mesh::ingress {
namespace {

constexpr const char* kCallsHelp = "Calls of the inference service that were answered.";
constexpr std::chrono::milliseconds kNear{50};
constexpr const char* kSecondsHelp = "Time from a call's message to its answer.";

// Not what the client asked wrongly, took back, or what was only too much. The twin of SERVER_FAULTS in
// serving/errors.py.
bool IsServersFault(Code code) {
  switch (code) {
    case Code::kUnknown:
    case Code::kDeadlineExceeded:
    case Code::kInternal:
    case Code::kUnavailable:
    case Code::kDataLoss: return true;
    default: return false;
  }
}

}  // namespace

MethodInstruments::MethodInstruments(metrics::Registry& registry, const std::string& method)
    : seconds_(registry.GetHistogram("mesh_ingress_call_seconds", kSecondsHelp, {{"method", method}})) {
  for (std::size_t code = 0; code < kCodes; ++code) {
    calls_[code] = &registry.GetCounter("mesh_ingress_calls_total", kCallsHelp,
                                        {{"method", method}, {"code", CodeName(static_cast<Code>(code))}});
  }
}

Code CodeAtDeadline(Code code, const std::optional<std::chrono::steady_clock::time_point>& deadline) {
  if (!deadline.has_value() || (code != Code::kOk && code != Code::kCancelled)) return code;
  // The client's clock began a little earlier: at its deadline it takes the call back before ours has passed.
  const auto near = code == Code::kCancelled ? kNear : std::chrono::milliseconds(0);
  return std::chrono::steady_clock::now() + near >= *deadline ? Code::kDeadlineExceeded : code;
}

void MethodInstruments::CountRefused(Code code) {
  const auto index = static_cast<std::size_t>(code);
  calls_[index < kCodes ? index : static_cast<std::size_t>(Code::kUnknown)]->Add();
}

void MethodInstruments::Count(Code code, std::chrono::steady_clock::duration took) {
  CountRefused(code);
  if (IsServersFault(code)) failed_.fetch_add(1, std::memory_order_relaxed);
  seconds_.Observe(std::chrono::duration<double>(took).count());
}

Instruments::Instruments(metrics::Registry& registry_in, const std::string& trace_file, std::uint64_t most)
    : registry(registry_in),
      infer(registry_in, "ModelInfer"),
      stream(registry_in, "ModelStreamInfer"),
      request_bytes(registry_in.GetCounter("mesh_ingress_infer_request_bytes_total",
                                           "Bytes of inference requests, streamed ones included.")),
      response_bytes(registry_in.GetCounter("mesh_ingress_infer_response_bytes_total", "Bytes of their answers.")),
      max_requests(most),
      traces(trace_file) {}

Status Instruments::Admit() const {
  if (max_requests == 0 || in_flight.load(std::memory_order_relaxed) < max_requests) return {};
  return {Code::kResourceExhausted, "this replica is full: " + std::to_string(max_requests) +
                                        " requests run or wait (max_requests); send the request to another replica, "
                                        "or later"};
}

}  // namespace mesh::ingress
