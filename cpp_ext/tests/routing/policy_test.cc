#include "routing/policy.h"

#include "tests/routing/cases.h"

namespace mesh::routing {
namespace {

using nlohmann::json;

json ToJson(const Policy& policy) {
  const OutlierConfig& outliers = policy.outliers;
  const RetryBudgetConfig& budget = policy.budget;
  json labels = json::object();
  for (const auto& [name, value] : policy.prefer_labels) labels[name] = value;
  return {{"choice", ChoiceName(policy.choice)},
          {"hash_key", policy.hash_key},
          {"prefer_labels", labels},
          {"outliers",
           {{"consecutive_failures", outliers.consecutive_failures},
            {"failure_rate", outliers.failure_rate},
            {"rate_requests", outliers.rate_requests},
            {"window_s", outliers.window_s},
            {"base_s", outliers.base_s},
            {"max_s", outliers.max_s},
            {"forgive_s", outliers.forgive_s},
            {"max_share", outliers.max_share}}},
          {"budget", {{"share", budget.share}, {"min_per_s", budget.min_per_s}, {"capacity", budget.capacity}}},
          {"max_attempts", policy.max_attempts},
          {"backoff_s", policy.backoff_s},
          {"backoff_max_s", policy.backoff_max_s},
          {"unknown_model_wait_s", policy.unknown_model_wait_s},
          {"max_in_flight_per_endpoint", policy.max_in_flight_per_endpoint},
          {"max_queued", policy.max_queued},
          {"hedge_after_s", policy.hedge_after_s ? json(*policy.hedge_after_s) : json()},
          {"suspect_after_s", policy.suspect_after_s},
          {"probe_timeout_s", policy.probe_timeout_s},
          {"probes", policy.probes}};
}

TEST(Policy, Valid) {
  const json defaults = Cases("policy").at("defaults");
  EXPECT_EQ(ToJson(Policy()), defaults);
  for (const json& given : Cases("policy", "valid")) {
    SCOPED_TRACE(given.at("name"));
    json wanted = defaults;
    wanted.update(given.at("is"), true);
    const Result<Policy> policy = ParsePolicy(given.at("policy"));
    ASSERT_TRUE(policy.ok()) << policy.status().ToString();
    EXPECT_EQ(ToJson(policy.value()), wanted);
    const Result<Policy> again = ParsePolicy(wanted);
    ASSERT_TRUE(again.ok()) << again.status().ToString();
    EXPECT_EQ(ToJson(again.value()), wanted);
  }
}

TEST(Policy, Invalid) {
  for (const json& given : Cases("policy", "invalid")) {
    const Result<Policy> policy = ParsePolicy(given.at("policy"));
    ASSERT_FALSE(policy.ok()) << given;
    const Status status = policy.status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    const bool whole = !given.at("policy").is_object();
    const std::string named = whole ? "the routing policy " : "field '" + given.at("field").get<std::string>() + "' ";
    EXPECT_EQ(status.message().substr(0, named.size()), named) << given << "\n" << status.message();
  }
}

TEST(Policy, ManyLabels) {
  json labels;
  for (int i = 0; i < 256; ++i) labels["label-" + std::to_string(i)] = "x";
  EXPECT_TRUE(ParsePolicy({{"prefer_labels", labels}}).ok());
  labels["one more"] = "x";
  EXPECT_EQ(ParsePolicy({{"prefer_labels", labels}}).status().message(),
            "field 'prefer_labels' has more than 256 entries");
}

}  // namespace
}  // namespace mesh::routing
