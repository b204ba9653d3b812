// The better one of two drawn by weight. The twin of serving/routing/power_of_two.py: given the same random numbers,
// both choose the same; tests/contract/routing proves it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "routing/load.h"

namespace mesh::routing {

// Latencies nearer than this factor count as equal, so that noise does not starve an endpoint.
inline constexpr double kLatencyTie = 1.25;

// Whether `second` should get the next request; `first` in a tie.
bool SecondIsBetter(const Load& first, const Load& second);

// Chooses among candidates 0 .. size()-1 of fixed weights; make a new one when they change. Picking allocates nothing
// and changes nothing, so any number of threads may pick at once.
//
// Two candidates are drawn, with probability by weight, and the one with less in-flight work per weight wins; where
// their latencies differ clearly, work counts times latency. `random()` answers doubles from 0 up to, not including,
// 1; `load_of(index)` answers the candidate's Load.
class PowerOfTwo {
 public:
  explicit PowerOfTwo(std::vector<std::uint32_t> weights);

  [[nodiscard]] std::size_t size() const { return weights_.size(); }

  // nullopt when there is no candidate.
  template <typename Random, typename LoadOf>
  [[nodiscard]] std::optional<std::size_t> Pick(Random&& random, LoadOf&& load_of) const {
    const std::size_t count = weights_.size();
    if (count == 0) return std::nullopt;
    if (count == 1) return 0;
    if (!bounds_.empty()) {
      const std::size_t first = Draw(random());
      const std::size_t second = Draw(random());
      return Better(first, second, load_of);
    }
    const std::size_t first = Scale(random(), count);
    const std::size_t second = Scale(random(), count - 1);
    return Better(first, second + (second >= first ? 1 : 0), load_of);
  }

  // Like Pick, only of the candidates for which `allowed(index)` says yes: the same choice as that of a PowerOfTwo of
  // these alone. It looks at all of them, `allowed` must not change its mind meanwhile.
  template <typename Allowed, typename Random, typename LoadOf>
  [[nodiscard]] std::optional<std::size_t> PickAmong(Allowed&& allowed, Random&& random, LoadOf&& load_of) const {
    const Subset subset = Survey(allowed);
    if (subset.count == 0) return std::nullopt;
    if (subset.count == 1) return subset.only;
    if (!subset.equal) {
      const std::size_t first = DrawAmong(allowed, random() * static_cast<double>(subset.weight), subset.only);
      const std::size_t second = DrawAmong(allowed, random() * static_cast<double>(subset.weight), subset.only);
      return Better(first, second, load_of);
    }
    const std::size_t first = Scale(random(), subset.count);
    const std::size_t second = Scale(random(), subset.count - 1);
    return Better(Nth(allowed, first, subset.only), Nth(allowed, second + (second >= first ? 1 : 0), subset.only),
                  load_of);
  }

 private:
  struct Subset {
    std::size_t count = 0;
    std::size_t only = 0;  // the last one seen, which is the only one when there is one
    std::uint64_t weight = 0;
    bool equal = true;
  };

  static std::size_t Scale(double chance, std::size_t count) {
    return std::min(static_cast<std::size_t>(chance * static_cast<double>(count)), count - 1);
  }

  [[nodiscard]] std::size_t Draw(double chance) const;

  template <typename LoadOf>
  static std::size_t Better(std::size_t first, std::size_t second, LoadOf& load_of) {
    if (first == second) return first;
    return SecondIsBetter(load_of(first), load_of(second)) ? second : first;
  }

  template <typename Allowed>
  Subset Survey(Allowed& allowed) const {
    Subset subset;
    for (std::size_t index = 0; index < weights_.size(); ++index) {
      if (!allowed(index)) continue;
      if (subset.count > 0 && weights_[index] != weights_[subset.only]) subset.equal = false;
      ++subset.count;
      subset.only = index;
      subset.weight += weights_[index];
    }
    return subset;
  }

  template <typename Allowed>
  std::size_t DrawAmong(Allowed& allowed, double at, std::size_t last) const {
    std::uint64_t bound = 0;
    for (std::size_t index = 0; index < last; ++index) {
      if (!allowed(index)) continue;
      bound += weights_[index];
      if (at < static_cast<double>(bound)) return index;
    }
    return last;
  }

  template <typename Allowed>
  std::size_t Nth(Allowed& allowed, std::size_t nth, std::size_t last) const {
    for (std::size_t index = 0; index < last; ++index) {
      if (allowed(index) && nth-- == 0) return index;
    }
    return last;
  }

  std::vector<std::uint32_t> weights_;  // at least 1 each
  std::vector<double> bounds_;          // running sums of the weights; empty when all are equal
};

}  // namespace mesh::routing
