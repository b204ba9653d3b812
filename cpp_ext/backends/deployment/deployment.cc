// The Triton backend "deployment": hands each request to the replica, which runs the user's code. So that code is a
// model of the embedded Triton, and has its queue, its statistics, its checks of requests, and every protocol.
//
// docs/design/0012-cpp-deployments.md says why.
#include <atomic>
#include <memory>
#include <string>

#include "backends/common/api.h"
#include "backends/common/errors.h"
#include "backends/common/request.h"
#include "backends/deployment/exchange.h"
#include "backends/deployment/host.h"

namespace {

using mesh::Code;
using mesh::Status;
using namespace mesh::backend;  // NOLINT(google-build-using-namespace): the entry points are all of the rest

std::atomic<const MeshBackendHost*> g_host{nullptr};

void Execute(const MeshBackendHost* host, TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request) {
  auto exchange = std::make_unique<MeshBackendExchange>(instance, request);
  Status status = Guarded([&] { return exchange->Read(); });
  MeshBackendExchange* const given = exchange.release();  // its release ends it
  if (status.ok()) return host->execute(host->self, given, &given->view(), &MeshBackendExchange::Calls());
  given->Finish(status);
  given->Release();
}

}  // namespace

extern "C" MESH_BACKEND_EXPORT void TRITONBACKEND_MeshAttach(const MeshBackendHost* host) { g_host.store(host); }

TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* /*backend*/) {
  return ToTriton(BindApi(__builtin_return_address(0)));
}

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* /*model*/) {
  if (g_host.load() != nullptr) return nullptr;
  return ToTriton({Code::kFailedPrecondition,
                   "the backend '" MESH_BACKEND_NAME "' runs code of deployments and no models of repositories"});
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance,
                                                       TRITONBACKEND_Request** requests, uint32_t request_count) {
  const MeshBackendHost* host = g_host.load();
  if (host == nullptr) return ToTriton({Code::kUnavailable, "the deployment has ended"});
  for (std::uint32_t index = 0; index < request_count; ++index) Execute(host, instance, requests[index]);
  return nullptr;
}
