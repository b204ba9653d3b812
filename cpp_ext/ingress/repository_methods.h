// The gRPC form of what clients ask of the model repository.
#pragma once

#include "common/metrics.h"
#include "ingress/repository_control.h"
#include "rpc/server.h"

namespace mesh::ingress {

// RepositoryModelLoad and RepositoryModelUnload. `control` must stay until the server was stopped.
void AddRepositoryMethods(rpc::Server& server, metrics::Registry& registry, RepositoryControl& control);

}  // namespace mesh::ingress
