// The endpoint that should answer first. The twin of serving/routing/least_latency.py: given the same random numbers,
// both choose the same; tests/contract/routing proves it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "routing/latency_tracker.h"
#include "routing/load.h"

namespace mesh::routing {

// Less is better: first the turn, then the cost.
struct Expectation {
  int turn = 0;
  double cost = 0.0;
};

// Endpoints of unknown latency have the first turn, the one with the fewest requests first, so that they become known;
// but only until they run as many requests as that takes, so that one that hangs does not take all. The known ones
// follow, by the time that a request should take: work per weight times latency. Then come unknown ones that have
// enough to do.
Expectation Expect(const Load& load);

// Chooses among all candidates 0 .. size()-1; ties by chance. Picking allocates and changes nothing. `random()` answers
// doubles from 0 up to, not including, 1; `load_of(index)` answers the candidate's Load and is asked once for each.
class LeastLatency {
 public:
  // The weights of the loads are what counts; these say how many there are, so that it is made as PowerOfTwo is.
  explicit LeastLatency(const std::vector<std::uint32_t>& weights) : size_(weights.size()) {}

  [[nodiscard]] std::size_t size() const { return size_; }

  // nullopt when there is no candidate.
  template <typename Random, typename LoadOf>
  [[nodiscard]] std::optional<std::size_t> Pick(Random&& random, LoadOf&& load_of) const {
    return PickAmong([](std::size_t) { return true; }, random, load_of);
  }

  // Only of the candidates for which `allowed(index)` says yes.
  template <typename Allowed, typename Random, typename LoadOf>
  [[nodiscard]] std::optional<std::size_t> PickAmong(Allowed&& allowed, Random&& random, LoadOf&& load_of) const {
    std::optional<std::size_t> best;
    Expectation least;
    int ties = 1;
    for (std::size_t index = 0; index < size_; ++index) {
      if (!allowed(index)) continue;
      const Expectation found = Expect(load_of(index));
      const bool tie = best && found.turn == least.turn && found.cost == least.cost;
      if (!best || found.turn < least.turn || (found.turn == least.turn && found.cost < least.cost)) {
        best = index;
        least = found;
        ties = 1;
      } else if (tie && random() * ++ties < 1.0) {  // each of them with the same chance, without a list
        best = index;
      }
    }
    return best;
  }

 private:
  std::size_t size_;
};

}  // namespace mesh::routing
