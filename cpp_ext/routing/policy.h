// The one description of how requests are sent to an application's endpoints. Python's twin is RoutingPolicy in
// serving/routing/policy.py; tests/contract/routing holds what both accept and refuse.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "routing/outlier_detector.h"
#include "routing/retry_budget.h"

namespace mesh::routing {

enum class Choice : std::uint8_t { kPowerOfTwo, kLeastLatency, kConsistentHash };

// "power_of_two" and so on.
const char* ChoiceName(Choice choice);

struct Policy {
  Choice choice = Choice::kPowerOfTwo;
  // Of consistent_hash: the metadata (lower case) whose first value says where a request belongs, by the endpoints' ids
  // and weights; a request without it, or with an empty one, goes by power_of_two.
  std::string hash_key;
  std::vector<std::pair<std::string, std::string>> prefer_labels;  // by name; endpoints that miss fewest come first
  OutlierConfig outliers;
  RetryBudgetConfig budget;
  int max_attempts = 100;               // of one request; the deadline and the budget bound them, too
  double backoff_s = 0.025;             // the pause between attempts grows from here ...
  double backoff_max_s = 1.0;           // ... to here
  double unknown_model_wait_s = 1.0;    // how long a model that no endpoint offers is waited for
  int max_in_flight_per_endpoint = 0;   // 0: unlimited
  int max_queued = 1000;                // requests that wait for room below that limit
  std::optional<double> hedge_after_s;  // after so long the request is sent to a second endpoint as well
  double suspect_after_s = 1.0;         // an endpoint that runs requests and answers nothing for so long is probed
  double probe_timeout_s = 1.0;
  int probes = 2;  // that must fail before it counts as hanging
};

// Reads the description. Fields may be named as above or in canonical JSON's camelCase (hashKey); absent and null ones
// have their defaults. INVALID_ARGUMENT names the first field that is wrong or not known, and what is allowed.
Result<Policy> ParsePolicy(const nlohmann::json& object);

}  // namespace mesh::routing
