// How many retries are allowed: a share of the requests, and a few per second. The twin of
// serving/routing/retry_budget.py; tests/contract/routing runs both. Times are seconds on one clock.
#pragma once

#include <optional>

namespace mesh::routing {

// Each request earns `share` of a retry and each second `min_per_s`; up to `capacity` are saved up. The capacity is
// there at the start: it must carry the requests that are in flight on one endpoint when it dies.
struct RetryBudgetConfig {
  double share = 0.2;
  double min_per_s = 10.0;
  double capacity = 256.0;
};

// A token bucket. Between any two moments at most capacity + share x requests + min_per_s x seconds are spent. Not
// thread-safe.
class RetryBudget {
 public:
  explicit RetryBudget(RetryBudgetConfig config = {}) : config_(config), tokens_(config.capacity) {}

  // A request (not a retry) was started.
  void Request();
  // Takes one retry; false when the budget is used up.
  bool TrySpend(double now);
  // Retries that could be spent now.
  double Left(double now);

 private:
  void Refill(double now);

  RetryBudgetConfig config_;
  double tokens_;
  std::optional<double> last_;
};

}  // namespace mesh::routing
