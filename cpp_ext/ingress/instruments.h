// What the ingress counts and traces.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/metrics.h"
#include "common/status.h"
#include "ingress/trace_settings.h"
#include "rpc/server.h"

namespace mesh::ingress {

// Calls of one method: by code, with their time. Costs a few atomic additions per call.
class MethodInstruments {
 public:
  MethodInstruments(metrics::Registry& registry, const std::string& method);
  void Count(Code code, std::chrono::steady_clock::duration took);
  void CountRefused(Code code);  // it did not run: it says nothing of how long requests take
  [[nodiscard]] metrics::Histogram::Snapshot seconds() const { return seconds_.snapshot(); }
  // Of those that Count() told of: by the server's fault.
  [[nodiscard]] std::uint64_t failed() const { return failed_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::size_t kCodes = 17;
  std::array<metrics::Counter*, kCodes> calls_{};
  metrics::Histogram& seconds_;
  std::atomic<std::uint64_t> failed_{0};
};

// What the client saw: of a call that ended after its deadline that, whatever it would have been answered.
Code CodeAtDeadline(Code code, const std::optional<std::chrono::steady_clock::time_point>& deadline);

struct Instruments {
  // `trace_file` as for TraceSettings; `max_requests` as in ServiceOptions.
  Instruments(metrics::Registry& registry, const std::string& trace_file, std::uint64_t max_requests);

  // Whether one more request may run: OK, or RESOURCE_EXHAUSTED. Threads that ask at one time may each be let in.
  [[nodiscard]] Status Admit() const;

  metrics::Registry& registry;
  MethodInstruments infer;
  MethodInstruments stream;  // a call is one stream
  metrics::Counter& request_bytes;
  metrics::Counter& response_bytes;
  std::atomic<std::uint64_t> in_flight{0};  // accepted and not yet answered, of all protocols
  const std::uint64_t max_requests;         // 0: no limit
  TraceSettings traces;
};

}  // namespace mesh::ingress
