// The methods that register, list and forget shared memory.
#pragma once

#include "common/metrics.h"
#include "ingress/shared_memory.h"
#include "rpc/server.h"

namespace mesh::ingress {

// SystemSharedMemory{Status,Register,Unregister} for clients of this host, and the same of CUDA, which this server
// does not offer and says so. `memory` must stay until the server was stopped.
void AddSharedMemoryMethods(rpc::Server& server, metrics::Registry& registry, SharedMemory& memory);

}  // namespace mesh::ingress
