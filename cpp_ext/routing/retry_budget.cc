#include "routing/retry_budget.h"

#include <algorithm>

namespace mesh::routing {

void RetryBudget::Request() { tokens_ = std::min(tokens_ + config_.share, config_.capacity); }

bool RetryBudget::TrySpend(double now) {
  Refill(now);
  if (tokens_ < 1.0) return false;
  tokens_ -= 1.0;
  return true;
}

double RetryBudget::Left(double now) {
  Refill(now);
  return tokens_;
}

void RetryBudget::Refill(double now) {
  if (last_ && now > *last_) tokens_ = std::min(tokens_ + (now - *last_) * config_.min_per_s, config_.capacity);
  last_ = last_ ? std::max(now, *last_) : now;
}

}  // namespace mesh::routing
