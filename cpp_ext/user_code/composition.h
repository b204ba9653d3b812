// Calls to other deployments of the application, as a proxy makes them: the same router, retries and policies, in this
// process.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>

#include "common/metrics.h"
#include "common/status.h"
#include "mesh/abi.h"
#include "proxy/core.h"
#include "proxy/endpoint_follower.h"
#include "proxy/health.h"
#include "proxy/traffic_follower.h"
#include "registry/options.h"
#include "rpc/event_loop.h"
#include "user_code/question.h"

namespace mesh::user {

struct CompositionOptions {
  registry::Options etcd;
  proxy::Application application;
  std::optional<rpc::TlsOptions> tls;  // for endpoints that expect it
};

class LocalCall;

class Composition {
 public:
  Composition(CompositionOptions options, std::shared_ptr<rpc::EventLoop> loop);
  ~Composition();  // Close()
  Composition(const Composition&) = delete;
  Composition& operator=(const Composition&) = delete;

  // Follows the application's endpoints from now on. Repeatable, thread-safe.
  void Follow();
  // Told through `asker`. Thread-safe.
  void Ask(const MeshQuestion& question, const std::shared_ptr<Asker>& asker);
  // Ends what runs with CANCELLED. Not on the loop. Repeatable.
  void Close();

 private:
  friend class LocalCall;

  void MakeCore();
  void Start(const std::shared_ptr<LocalCall>& call, rpc::Slice request, proxy::RequestHead head);

  const CompositionOptions options_;
  const std::shared_ptr<rpc::EventLoop> loop_;
  metrics::Registry registry_;  // of the core, whose numbers nobody asks for
  std::mutex mutex_;            // guards the making and the end of what follows
  bool closed_ = false;
  std::unique_ptr<proxy::Core> core_;
  std::unique_ptr<proxy::Health> health_;
  std::unique_ptr<proxy::EndpointFollower> follower_;
  std::unique_ptr<proxy::TrafficFollower> traffic_follower_;
  std::unordered_set<std::shared_ptr<LocalCall>> running_;  // of the loop
};

}  // namespace mesh::user
