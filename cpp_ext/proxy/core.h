// What all forwarded calls of a proxy share. On the proxy's loop.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "proxy/brokers.h"
#include "proxy/proxy_metrics.h"
#include "proxy/router.h"
#include "proxy/waiting_room.h"
#include "routing/retry_budget.h"
#include "rpc/event_loop.h"

namespace mesh::proxy {

// Copies of requests that run, all together (proxy/shadow.h).
struct Copies {
  std::size_t running = 0;
  std::size_t bytes = 0;  // of their requests, which are those of the requests themselves
};

struct Core {
  Core(metrics::Registry& registry, const routing::Policy& policy)
      : metrics(registry), budget(policy.budget), waiting(static_cast<std::size_t>(policy.max_queued)) {}

  // The time at which the loop's iteration began, in seconds.
  [[nodiscard]] double now() const;
  // How long a request may wait for what it lacks; none: as long as its own deadline allows.
  [[nodiscard]] std::optional<double> LongestWait(Lack lack) const;
  // What a request is told that may not even wait.
  [[nodiscard]] Status IsFull() const;

  std::string application;  // what errors call it
  // At the edge: the name that a model has at its endpoints, by the one that a client used.
  std::function<std::string(const std::string& model)> own_name;
  double hold_s = 30.0;  // how long a request is held while no endpoint takes new work
  std::shared_ptr<rpc::EventLoop> loop;
  std::unique_ptr<Router> router;
  std::unique_ptr<Brokers> brokers;
  ProxyMetrics metrics;
  routing::RetryBudget budget;
  WaitingRoom waiting;
  Chance chance;
  Copies copies;
  std::unordered_set<std::shared_ptr<Waiter>> pausing;  // before their next attempt
};

}  // namespace mesh::proxy
