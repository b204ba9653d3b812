// The methods that register, list and forget shared memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/metrics.h"
#include "common/status.h"
#include "ingress/shared_memory.h"
#include "rpc/server.h"

namespace mesh::ingress {

// SystemSharedMemory{Status,Register,Unregister} for clients of this host, and the same of CUDA, which this server
// does not offer and says so. `memory` must stay until the server was stopped.
void AddSharedMemoryMethods(rpc::Server& server, metrics::Registry& registry, SharedMemory& memory);

// What a method does, for every protocol.
struct Registration {
  std::string name;
  std::string key;
  std::uint64_t offset = 0;
  std::uint64_t byte_size = 0;
};
Status RegisterSharedMemory(SharedMemory& memory, std::string_view peer, const Registration& wanted);
// An empty name: all.
void UnregisterSharedMemory(SharedMemory& memory, const std::string& name);
Status CudaSharedMemoryRefused();
// OK for all regions, of which there are none; NOT_FOUND for one.
Status FindCudaSharedMemory(const std::string& name);

}  // namespace mesh::ingress
