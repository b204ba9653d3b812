// Methods of GRPCInferenceService beside inference: one message in, one out, answered at once or by a worker.
#pragma once

#include <functional>
#include <memory>
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

// Takes the encoded answer, from any thread; only the first one counts.
using Answer = std::function<void(const Result<std::string>&)>;
using WorkerHandler = std::function<void(const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request, Answer)>;

// The same for what takes long: the handler passes its work to another thread and returns. An answer that is dropped
// instead of given counts as cancelled, as the client must be gone.
void AddWorkerMethod(rpc::Server& server, metrics::Registry& registry, const std::string& method,
                     WorkerHandler handler);

}  // namespace mesh::ingress
