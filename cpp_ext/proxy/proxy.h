// A proxy: everything of its process, from the configuration to the end of its last request.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "common/status.h"
#include "proxy/proxy_config.h"

namespace mesh::proxy {

class Proxy {
 public:
  explicit Proxy(ProxyConfig config);
  ~Proxy();  // Stop()
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  // Serves, follows the application's endpoints and registers itself. Without etcd it serves nobody and goes on trying.
  Status Start();
  // Leaves discovery, refuses new requests, finishes the running ones for at most `limit`. True when all finished.
  bool Drain(std::chrono::milliseconds limit);
  // Ends what still runs, a Drain on another thread, too. Repeatable.
  void Stop();

  [[nodiscard]] std::string address() const;  // as clients reach it
  [[nodiscard]] std::string metrics_address() const;
  // A ReplicaReport in canonical JSON. "loading" until the application's endpoints and traffic splits are known, then
  // "ready". `refused` is why the call that this answers did nothing.
  [[nodiscard]] std::string Report(const std::string& refused = "") const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// What a process without a proxy reports: why there is none. Beside Ray's headers, which bring another JSON library of
// the same name, nobody else can make it.
std::string FailedReport(const std::string& reason);

}  // namespace mesh::proxy
