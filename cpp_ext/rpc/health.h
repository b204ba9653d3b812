// grpc.health.v1.Health: what load balancers, Kubernetes and the mesh itself ask a server.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "rpc/server.h"

namespace mesh::rpc {

enum class ServingStatus : std::uint8_t { kUnknown = 0, kServing = 1, kNotServing = 2, kServiceUnknown = 3 };

// Thread-safe. May be destroyed before the server, which then goes on with the last statuses.
class HealthService {
 public:
  // The server as a whole (the service "") is serving; nothing else is known yet.
  HealthService();

  // Before the server's Start. Drain and Stop of the server drain this too.
  void Register(Server* server);

  // Watchers of the service are told, if it differs. Without effect after Drain.
  void SetStatus(const std::string& service, ServingStatus status);
  // Forgets the service: Check answers NOT_FOUND, watchers are told SERVICE_UNKNOWN.
  void Remove(const std::string& service);
  // Everything is NOT_SERVING from now on. Watchers are told, then their streams end with UNAVAILABLE. Repeatable.
  void Drain();

  class State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace mesh::rpc
