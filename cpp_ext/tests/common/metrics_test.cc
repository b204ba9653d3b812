#include "common/metrics.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace mesh::metrics {
namespace {

TEST(MetricsTest, WritesPrometheusText) {
  Registry registry;
  registry.GetCounter("mesh_requests_total", "Requests", {{"model", "digits"}, {"code", "OK"}}).Add(3);
  registry.GetGauge("mesh_in_flight", "Requests that run now").Set(1.5);
  auto& latency = registry.GetHistogram("mesh_latency_seconds", "Latency", {{"model", "digits"}}, {0.1, 1});
  latency.Observe(0.1);
  latency.Observe(0.5);
  latency.Observe(7);
  EXPECT_EQ(registry.Text(),
            "# HELP mesh_in_flight Requests that run now\n"
            "# TYPE mesh_in_flight gauge\n"
            "mesh_in_flight 1.5\n"
            "# HELP mesh_latency_seconds Latency\n"
            "# TYPE mesh_latency_seconds histogram\n"
            "mesh_latency_seconds_bucket{model=\"digits\",le=\"0.1\"} 1\n"
            "mesh_latency_seconds_bucket{model=\"digits\",le=\"1\"} 2\n"
            "mesh_latency_seconds_bucket{model=\"digits\",le=\"+Inf\"} 3\n"
            "mesh_latency_seconds_sum{model=\"digits\"} 7.6\n"
            "mesh_latency_seconds_count{model=\"digits\"} 3\n"
            "# HELP mesh_requests_total Requests\n"
            "# TYPE mesh_requests_total counter\n"
            "mesh_requests_total{code=\"OK\",model=\"digits\"} 3\n");
}

TEST(MetricsTest, LabelsInAnyOrderAreTheSameSeries) {
  Registry registry;
  auto& one = registry.GetCounter("c", "", {{"a", "1"}, {"b", "2"}});
  auto& two = registry.GetCounter("c", "", {{"b", "2"}, {"a", "1"}});
  EXPECT_EQ(&one, &two);
}

TEST(MetricsTest, EscapesLabelValuesAndHelp) {
  Registry registry;
  registry.GetCounter("c", "a\nb", {{"path", "say \"hi\"\\\n"}}).Add();
  EXPECT_NE(registry.Text().find("c{path=\"say \\\"hi\\\"\\\\\\n\"} 1\n"), std::string::npos);
  EXPECT_NE(registry.Text().find("# HELP c a\\nb\n"), std::string::npos);
}

TEST(MetricsTest, ManySeriesShareOneAboveTheBound) {
  Registry registry;
  for (std::size_t index = 0; index < Registry::kMaxSeries + 50; ++index) {
    registry.GetCounter("c", "", {{"model", std::to_string(index)}}).Add();
  }
  EXPECT_NE(registry.Text().find("c{overflow=\"true\"} 50\n"), std::string::npos);
}

TEST(MetricsTest, AMisusedNameIsLeftOutAndHarmless) {
  Registry registry;
  registry.GetCounter("c", "").Add();
  registry.GetGauge("c", "").Set(9);
  registry.GetCounter("not a name", "").Add();
  EXPECT_EQ(registry.Text(), "# HELP c \n# TYPE c counter\nc 1\n");
}

TEST(MetricsTest, CallbacksAreReadAndRemoved) {
  Registry registry;
  double value = 4;
  const auto id = registry.AddGauge("g", "", {}, [&value] { return value; });
  EXPECT_NE(registry.Text().find("\ng 4\n"), std::string::npos);
  value = 5;
  EXPECT_NE(registry.Text().find("\ng 5\n"), std::string::npos);
  registry.Remove(id);
  EXPECT_EQ(registry.Text(), "");
}

TEST(MetricsTest, CountsOfManyThreadsAddUp) {
  Registry registry;
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int thread = 0; thread < 8; ++thread) {
    threads.emplace_back([&registry] {
      auto& counter = registry.GetCounter("c", "");
      auto& gauge = registry.GetGauge("g", "");
      auto& histogram = registry.GetHistogram("h", "");
      for (int index = 0; index < 5000; ++index) {
        counter.Add();
        gauge.Add(1);
        histogram.Observe(1);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(registry.GetCounter("c", "").value(), 40000U);
  EXPECT_EQ(registry.GetGauge("g", "").value(), 40000);
  EXPECT_EQ(registry.GetHistogram("h", "").snapshot().cumulative.back(), 40000U);
  EXPECT_EQ(registry.GetHistogram("h", "").snapshot().sum, 40000);
}

}  // namespace
}  // namespace mesh::metrics
