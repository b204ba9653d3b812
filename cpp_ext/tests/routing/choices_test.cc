#include <cmath>
#include <optional>
#include <vector>

#include "routing/latency_tracker.h"
#include "routing/least_latency.h"
#include "routing/power_of_two.h"
#include "routing/rendezvous.h"
#include "tests/routing/cases.h"

namespace mesh::routing {
namespace {

using nlohmann::json;

Load ReadLoad(const json& load) { return {load.at(0), load.at(1), load.at(2)}; }

bool Contains(const json& list, std::size_t index) { return std::find(list.begin(), list.end(), index) != list.end(); }

json OrNull(std::optional<std::size_t> index) { return index ? json(*index) : json(); }

// Picks as often as the case says; every random number must be used, and none more.
template <typename Choice>
void RunPicks(const json& given) {
  SCOPED_TRACE(given.at("name"));
  const json& loads = given.at("loads");
  std::vector<std::uint32_t> weights;
  for (const json& load : loads) weights.push_back(load.at(1));
  const std::vector<double> numbers = given.at("random");
  std::size_t used = 0;
  const auto random = [&] { return numbers.at(used++); };
  const auto load_of = [&](std::size_t index) { return ReadLoad(loads.at(index)); };
  const Choice choice(weights);
  EXPECT_EQ(choice.size(), loads.size());
  json picks = json::array();
  for (std::size_t i = 0; i < given.at("picks").size(); ++i) {
    if (given.contains("allowed")) {
      const auto allowed = [&](std::size_t index) { return Contains(given.at("allowed"), index); };
      picks.push_back(OrNull(choice.PickAmong(allowed, random, load_of)));
    } else {
      picks.push_back(OrNull(choice.Pick(random, load_of)));
    }
  }
  EXPECT_EQ(picks, given.at("picks"));
  EXPECT_EQ(used, numbers.size());
}

TEST(PowerOfTwo, Better) {
  for (const json& given : Cases("power_of_two", "better")) {
    SCOPED_TRACE(given.at("name"));
    EXPECT_EQ(SecondIsBetter(ReadLoad(given.at("first")), ReadLoad(given.at("second"))), given.at("second_is_better"));
  }
}

TEST(PowerOfTwo, Picks) {
  for (const json& given : Cases("power_of_two", "picks")) RunPicks<PowerOfTwo>(given);
}

// Where everything is allowed, both ways to pick are one: the cases without `allowed` hold for PickAmong, too.
TEST(PowerOfTwo, AmongAllIsTheSame) {
  for (json given : Cases("power_of_two", "picks")) {
    if (given.contains("allowed")) continue;
    given["allowed"] = json::array();
    for (std::size_t i = 0; i < given.at("loads").size(); ++i) given["allowed"].push_back(i);
    RunPicks<PowerOfTwo>(given);
  }
}

// A generator that answers 1.0, against the rules, must not lead outside of the candidates.
TEST(PowerOfTwo, ARandomNumberOfOneStaysInside) {
  const auto one = [] { return 1.0; };
  const auto idle = [](std::size_t) { return Load{}; };
  const auto any = [](std::size_t) { return true; };
  for (const PowerOfTwo& choice : {PowerOfTwo({1, 1, 1}), PowerOfTwo({1, 2, 3})}) {
    EXPECT_LT(choice.Pick(one, idle), 3U);
    EXPECT_LT(choice.PickAmong(any, one, idle), 3U);
  }
}

TEST(LeastLatency, Picks) {
  for (const json& given : Cases("least_latency", "picks")) RunPicks<LeastLatency>(given);
}

TEST(LatencyTracker, Cases) {
  for (const json& given : Cases("latency", "cases")) {
    SCOPED_TRACE(given.at("name"));
    LatencyOptions options;
    const json changes = given.value("options", json::object());
    options.tau_s = changes.value("tau_s", options.tau_s);
    options.hold_s = changes.value("hold_s", options.hold_s);
    options.half_life_s = changes.value("half_life_s", options.half_life_s);
    LatencyTracker tracker(options);
    for (const json& step : given.at("steps")) {
      const double now = step.at("now");
      for (int i = 0; i < Times(step); ++i) {
        if (step.contains("observe")) {
          tracker.Observe(step.at("observe"), now);
        } else {
          const double is = step.at("is");
          EXPECT_NEAR(tracker.latency_s(now), is, std::fabs(is) * 1e-12) << step;
        }
      }
    }
  }
}

TEST(Rendezvous, StableHash) {
  for (const json& given : Cases("rendezvous", "hashes")) {
    const std::string text = given.at("text");
    EXPECT_EQ(std::to_string(StableHash(text)), given.at("is")) << text;
  }
}

TEST(Rendezvous, Cases) {
  for (const json& given : Cases("rendezvous", "cases")) {
    SCOPED_TRACE(given.at("name"));
    std::vector<RendezvousMember> members;
    for (const json& member : given.at("members")) members.emplace_back(member.at(0), member.at(1));
    const std::string key = given.at("key");
    EXPECT_EQ(json(RendezvousOrder(key, members)), given.at("order"));
    for (const json& best : given.at("best")) {
      const auto allowed = [&](std::size_t index) { return Contains(best.at("allowed"), index); };
      EXPECT_EQ(OrNull(RendezvousBest(key, members, allowed)), best.at("is")) << best;
    }
  }
}

}  // namespace
}  // namespace mesh::routing
