// Methods of GRPCInferenceService beside inference: one message in, one out, answered at once or by a worker.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "common/metrics.h"
#include "common/status.h"
#include "rpc/server.h"

namespace mesh::ingress {

// An encoded request to its encoded answer. `call` is for what else is known of the client.
using ControlHandler = std::function<Result<std::string>(const rpc::ServerCall& call, std::string_view request)>;

// Registers the method and counts its calls. What the handler throws is logged, and INTERNAL for the client.
void AddControlMethod(rpc::Server& server, metrics::Registry& registry, const std::string& method,
                      ControlHandler handler);

}  // namespace mesh::ingress
