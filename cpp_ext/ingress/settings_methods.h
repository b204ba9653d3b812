// The gRPC form of the trace and log settings.
#pragma once

#include "common/metrics.h"
#include "ingress/log_settings.h"
#include "ingress/trace_settings.h"
#include "rpc/server.h"
#include "triton/server.h"

namespace mesh::ingress {

// TraceSetting and LogSettings. All four must stay until the server was stopped.
void AddSettingsMethods(rpc::Server& server, metrics::Registry& registry, const triton::Server& triton,
                        TraceSettings& traces, LogSettings& logs);

}  // namespace mesh::ingress
