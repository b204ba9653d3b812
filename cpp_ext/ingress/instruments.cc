#include "ingress/instruments.h"

namespace mesh::ingress {
namespace {

constexpr const char* kCallsHelp = "Calls of the inference service that were answered.";
constexpr const char* kSecondsHelp = "Time from a call's message to its answer.";

}  // namespace

MethodInstruments::MethodInstruments(metrics::Registry& registry, const std::string& method)
    : seconds_(registry.GetHistogram("mesh_ingress_call_seconds", kSecondsHelp, {{"method", method}})) {
  for (std::size_t code = 0; code < kCodes; ++code) {
    calls_[code] = &registry.GetCounter("mesh_ingress_calls_total", kCallsHelp,
                                        {{"method", method}, {"code", CodeName(static_cast<Code>(code))}});
  }
}

void MethodInstruments::Count(Code code, std::chrono::steady_clock::duration took) {
  const auto index = static_cast<std::size_t>(code);
  calls_[index < kCodes ? index : static_cast<std::size_t>(Code::kUnknown)]->Add();
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

RpcServerMetrics::RpcServerMetrics(metrics::Registry& registry, const rpc::Server& server) : registry_(registry) {
  using Read = std::uint64_t rpc::ServerStats::*;
  const auto counter = [&](const char* name, const char* help, Read field) {
    const auto read = [&server, field] { return static_cast<double>(server.stats().*field); };
    ids_.push_back(registry.AddCounter(name, help, {}, read));
  };
  const auto gauge = [&](const char* name, const char* help, Read field) {
    const auto read = [&server, field] { return static_cast<double>(server.stats().*field); };
    ids_.push_back(registry.AddGauge(name, help, {}, read));
  };
  gauge("mesh_rpc_connections", "Open connections.", &rpc::ServerStats::connections_open);
  gauge("mesh_rpc_calls", "Open calls.", &rpc::ServerStats::calls_open);
  counter("mesh_rpc_connections_total", "Accepted connections.", &rpc::ServerStats::connections_total);
  counter("mesh_rpc_calls_total", "Calls that began.", &rpc::ServerStats::calls_total);
  counter("mesh_rpc_received_bytes_total", "Bytes read from connections.", &rpc::ServerStats::bytes_received);
  counter("mesh_rpc_sent_bytes_total", "Bytes written to connections.", &rpc::ServerStats::bytes_sent);
  counter("mesh_rpc_protocol_errors_total", "Violations of HTTP/2 or gRPC by peers.",
          &rpc::ServerStats::protocol_errors);
}

RpcServerMetrics::~RpcServerMetrics() {
  for (const std::uint64_t id : ids_) registry_.Remove(id);
}

}  // namespace mesh::ingress
