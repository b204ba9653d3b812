// The W3C trace context of a request (https://www.w3.org/TR/trace-context/): which trace of its caller's it belongs to.
//
// Read only where it is needed (a failure, a trace of Triton's), so that other requests pay nothing for it.
#pragma once

#include <string_view>

#include "common/status.h"
#include "http/request.h"
#include "rpc/server.h"

namespace mesh::ingress {

// Views into the request's headers.
struct TraceContext {
  std::string_view traceparent;  // valid, or empty: then the request belongs to no trace
  std::string_view tracestate;

  [[nodiscard]] bool empty() const { return traceparent.empty(); }
  // 32 and 16 hexadecimal digits.
  [[nodiscard]] std::string_view trace_id() const { return empty() ? traceparent : traceparent.substr(3, 32); }
  [[nodiscard]] std::string_view parent_id() const { return empty() ? traceparent : traceparent.substr(36, 16); }
};

// Version 00 to the letter; of later versions the part that they must begin with.
bool IsTraceParent(std::string_view text);

// One that is malformed, or in metadata twice, counts as absent, as the recommendation wants it.
TraceContext TraceContextOf(const rpc::Metadata& metadata);
TraceContext TraceContextOf(const http::Request& request);

// A record of the log for a request that has failed, when it belongs to a trace; nothing otherwise.
void LogFailedRequest(const TraceContext& context, std::string_view method, const Status& status);

}  // namespace mesh::ingress
