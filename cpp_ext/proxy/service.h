// The gRPC methods of a proxy.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "proxy/applications.h"
#include "proxy/core.h"
#include "rpc/server.h"

namespace mesh::proxy {

class Service {
 public:
  // Both must live until the server has stopped.
  explicit Service(Applications& applications) : applications_(applications) {}

  void Register(rpc::Server& server);
  // New calls are refused from now on; from any thread.
  void SetDraining() { draining_.store(true, std::memory_order_relaxed); }

 private:
  using ReadHead = Status (*)(std::string_view request, RequestHead* head);

  void Forward(const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request, ReadHead read);
  // Whom the request is for.
  [[nodiscard]] Result<Core*> Read(const rpc::ServerCall& call, const rpc::Slice& request, ReadHead read,
                                   RequestHead* head);
  // Through a broker of the application.
  static void Queue(Core& core, const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request, RequestHead head,
                    std::string deployment);
  void ForwardStream(const std::shared_ptr<rpc::ServerCall>& call);
  void OpenStream(const std::shared_ptr<rpc::ServerCall>& call, std::optional<rpc::Slice> first);
  void Ready(const std::shared_ptr<rpc::ServerCall>& call);
  void ModelReady(const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request);

  Applications& applications_;
  std::atomic<bool> draining_{false};
};

}  // namespace mesh::proxy
