// A replica's pulling from its readiness to its drain: the puller, and the discovery that it follows.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "broker/messages.h"
#include "broker/pulled_call.h"
#include "common/metrics.h"
#include "common/status.h"
#include "proxy/endpoint.h"
#include "registry/options.h"
#include "rpc/server.h"

namespace mesh::broker {

struct PullingOptions {
  registry::Options etcd;  // without endpoints there are no brokers
  proxy::Application application;
  std::string replica;
  std::string deployment;
  std::int64_t generation = 0;
  std::int64_t revision = 0;
  std::optional<rpc::TlsOptions> tls;  // what replicas present to each other
};

// Thread-safe, except that nothing may be called while Close runs or after it. Has a thread of its own.
class Pulling {
 public:
  // `serve` is called on that thread and must not block; `registry` must live longer. RESOURCE_EXHAUSTED when there is
  // no thread to be had.
  static Result<std::unique_ptr<Pulling>> Start(const PullingOptions& options, Serve serve,
                                                metrics::Registry& registry);
  ~Pulling();  // Close()
  Pulling(const Pulling&) = delete;
  Pulling& operator=(const Pulling&) = delete;

  // A replica that is not gets nothing more. It is, at first.
  void SetWell(bool well);
  // From now on nothing more is asked for; what runs goes on. Repeatable.
  void Drain();
  // True when nothing runs and every outcome is stored, false when that is not so after `limit`.
  bool WaitIdle(std::chrono::milliseconds limit);
  // What still runs is ended, and goes back to its broker. Repeatable.
  void Close();

 private:
  class Impl;
  explicit Pulling(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::broker
