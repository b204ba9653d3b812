// Failures that are not of the client's making.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"
#include "ingress/trace_context.h"

namespace mesh::ingress {

// Logs the detail under a new id and gives the status that clients see: INTERNAL, with that id and nothing else.
// `trace`: that of the request, for the log.
Status InternalFailure(std::string_view where, std::string_view detail, const TraceContext& trace = {});

// For requests that come while the replica drains: UNAVAILABLE.
Status Draining();

// A model's own error, fit for clients: the stack that Triton's Python backend appends is cut off and logged under the
// id that the message then names. Everything else stays as it is.
Status WithoutStack(Status status, std::string_view model, const TraceContext& trace = {});

}  // namespace mesh::ingress
