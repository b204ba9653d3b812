#include <array>

#include "routing/outlier_detector.h"
#include "routing/retry_budget.h"
#include "routing/verdict.h"
#include "rpc/client.h"
#include "tests/routing/cases.h"

namespace mesh::routing {
namespace {

using nlohmann::json;

OutlierConfig ReadOutliers(const json& changes) {
  OutlierConfig config;
  config.consecutive_failures = changes.value("consecutive_failures", config.consecutive_failures);
  config.failure_rate = changes.value("failure_rate", config.failure_rate);
  config.rate_requests = changes.value("rate_requests", config.rate_requests);
  config.window_s = changes.value("window_s", config.window_s);
  config.base_s = changes.value("base_s", config.base_s);
  config.max_s = changes.value("max_s", config.max_s);
  config.forgive_s = changes.value("forgive_s", config.forgive_s);
  config.max_share = changes.value("max_share", config.max_share);
  return config;
}

void FailProbe(OutlierDetector& detector, OutlierDetector::Key key) {
  const std::optional<double> now = detector.next_probe_at();
  ASSERT_TRUE(now.has_value());
  ASSERT_EQ(detector.TakeDueProbes(*now), std::vector<OutlierDetector::Key>{key});
  detector.Probed(key, false, *now);
}

// What the step answers; null for steps that answer nothing.
json Answer(OutlierDetector& detector, const json& step) {
  const std::string what = step.at("do");
  const OutlierDetector::Key key = step.value("key", OutlierDetector::Key{0});
  const double now = step.value("now", 0.0);
  if (what == "failed") return detector.Failed(key, now);
  if (what == "lost") return detector.Lost(key, now);
  if (what == "active") return detector.IsActive(key);
  if (what == "ejected") return detector.ejected();
  if (what == "next_probe") return detector.next_probe_at() ? json(*detector.next_probe_at()) : json();
  if (what == "probes") return detector.TakeDueProbes(now);
  if (what == "retain") {
    detector.Retain(step.at("keys"));
  } else if (what == "succeeded") {
    detector.Succeeded(key, now);
  } else if (what == "probed") {
    detector.Probed(key, step.at("ok"), now);
  } else if (what == "fail_probes") {
    FailProbe(detector, key);
  } else {
    ADD_FAILURE() << "no such step: " << what;
  }
  return {};
}

TEST(OutlierDetector, Cases) {
  for (const json& given : Cases("outliers", "cases")) {
    SCOPED_TRACE(given.at("name"));
    OutlierDetector detector(ReadOutliers(given.at("config")));
    for (const json& step : given.at("steps")) {
      for (int i = 0; i < Times(step); ++i) EXPECT_EQ(Answer(detector, step), step.value("is", json())) << step;
    }
  }
}

TEST(RetryBudget, Cases) {
  for (const json& given : Cases("retry_budget", "cases")) {
    SCOPED_TRACE(given.at("name"));
    RetryBudgetConfig config;
    config.share = given.at("config").value("share", config.share);
    config.min_per_s = given.at("config").value("min_per_s", config.min_per_s);
    config.capacity = given.at("config").value("capacity", config.capacity);
    RetryBudget budget(config);
    for (const json& step : given.at("steps")) {
      const std::string what = step.at("do");
      for (int i = 0; i < Times(step); ++i) {
        if (what == "request") {
          budget.Request();
        } else if (what == "spend") {
          EXPECT_EQ(budget.TrySpend(step.at("now")), step.at("is")) << step;
        } else {
          ASSERT_EQ(what, "left");
          EXPECT_NEAR(budget.Left(step.at("now")), step.at("is"), 1e-9) << step;
        }
      }
    }
  }
}

Code ReadCode(const json& code) {
  if (code.is_number()) return static_cast<Code>(code.get<std::uint8_t>());
  for (std::uint8_t number = 0; number <= static_cast<std::uint8_t>(Code::kUnauthenticated); ++number) {
    if (code == CodeName(static_cast<Code>(number))) return static_cast<Code>(number);
  }
  throw std::runtime_error("no such code: " + code.dump());
}

TEST(Verdict, Cases) {
  constexpr std::array<const char*, 4> kNext = {"RAISE", "ELSEWHERE", "ELSEWHERE_ONCE", "LATER"};
  constexpr std::array<const char*, 6> kFault = {"NONE", "BUSY", "LEAVING", "FAILED", "SLOW", "LOST"};
  for (const json& given : Cases("verdict", "cases")) {
    const std::string details = given.at("details");
    const Verdict verdict =
        Judge(ReadCode(given.at("code")), details, given.value("connected", true), given.value("retry_safe", true));
    EXPECT_EQ(given.at("next"), kNext.at(static_cast<std::size_t>(verdict.next))) << given;
    EXPECT_EQ(given.at("fault"), kFault.at(static_cast<std::size_t>(verdict.fault))) << given;
  }
}

TEST(Verdict, NeverSent) {
  for (const json& given : Cases("verdict", "never_sent")) {
    const std::string details = given.at("details");
    EXPECT_EQ(WasNeverSent(details, given.value("connected", false)), given.at("is")) << given;
  }
}

TEST(Verdict, KnowsTheWordsOfOurOwnClient) {
  EXPECT_TRUE(WasNeverSent(std::string("the server refused the call ") + rpc::kNotProcessed, true));
}

}  // namespace
}  // namespace mesh::routing
