#include "routing/power_of_two.h"

#include <utility>

namespace mesh::routing {

bool SecondIsBetter(const Load& first, const Load& second) {
  double cost_first = Cost(first);
  const double cost_second = Cost(second);
  if (first.latency_s > 0.0 && second.latency_s > 0.0) {
    const double ratio = first.latency_s / second.latency_s;
    if (ratio > kLatencyTie || ratio * kLatencyTie < 1.0) cost_first *= ratio;
  }
  return cost_second < cost_first;
}

PowerOfTwo::PowerOfTwo(std::vector<std::uint32_t> weights) : weights_(std::move(weights)) {
  bool equal = true;
  for (std::uint32_t& weight : weights_) {
    weight = std::max<std::uint32_t>(weight, 1);
    equal = equal && weight == weights_.front();
  }
  if (equal) return;
  double total = 0.0;  // exact: sums of 32-bit numbers
  for (const std::uint32_t weight : weights_) bounds_.push_back(total += weight);
}

std::size_t PowerOfTwo::Draw(double chance) const {
  const auto above = std::upper_bound(bounds_.begin(), bounds_.end(), chance * bounds_.back());
  return std::min(static_cast<std::size_t>(above - bounds_.begin()), bounds_.size() - 1);
}

}  // namespace mesh::routing
