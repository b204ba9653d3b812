// The actor that Ray starts for a proxy in C++. Control only: requests go to the proxy's own port.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>

#include "common/status.h"
#include "proxy/proxy.h"

namespace mesh::actor {

// Has the methods of a DeploymentActor, so that a master treats both alike. Nothing here throws.
class ProxyActor {
 public:
  // `config_json` is a ProxyConfig. Serves when it returns; it is "ready" once it knows the application's endpoints.
  // SIGTERM drains it and then ends the process, a second one ends it at once. The object lives as long as the process.
  explicit ProxyActor(const std::string& config_json);

  // Each answers with a ReplicaReport in canonical JSON.
  std::string Status();
  std::string Drain(double limit_s);                   // returns at once; Status follows it
  std::string Update(const std::string& update_json);  // always refused: a proxy has no models
  std::string Stop();                                  // leaves discovery and ends everything; returns when it is done

 private:
  mesh::Status Start(const std::string& config_json);
  // On a thread of its own, once; later calls change nothing. With `then_end` the process ends afterwards.
  void BeginDrain(std::chrono::milliseconds limit, bool then_end);
  std::string Report(const char* method, const std::string& refused = "");

  std::unique_ptr<proxy::Proxy> proxy_;
  std::chrono::milliseconds drain_timeout_{0};
  std::string broken_;  // why there is no proxy
  std::mutex drain_mutex_;
  bool draining_ = false;  // guarded by drain_mutex_, as is the next
  bool drained_ = false;
  std::atomic<bool> ending_{false};  // the process ends when the drain is over
};

}  // namespace mesh::actor
