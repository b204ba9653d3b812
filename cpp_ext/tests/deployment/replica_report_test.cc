#include "deployment/replica_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mesh::deployment {
namespace {

using nlohmann::json;

TEST(IndexTest, ReadsWhatTritonWrites) {
  const auto models = ParseIndex(R"([{"name":"a","version":"1","state":"READY"},)"
                                 R"({"name":"b","version":"2","state":"UNAVAILABLE","reason":"no"},{"name":"c"}])");
  ASSERT_TRUE(models.ok());
  ASSERT_EQ(models.value().size(), 3U);
  EXPECT_EQ(models.value()[1].reason, "no");
  EXPECT_EQ(models.value()[2].state, "");
}

TEST(IndexTest, RubbishIsDataLoss) {
  EXPECT_EQ(ParseIndex("rubbish").status().code(), Code::kDataLoss);
  EXPECT_EQ(ParseIndex("{}").status().code(), Code::kDataLoss);
  EXPECT_FALSE(ParseIndex(R"([{"name":7}])").ok());
}

TEST(ReportTest, IsCanonicalJson) {
  ReplicaView view;
  view.id = "r";
  view.state = ReplicaState::kFailed;
  view.reason = "model a: bytes \xff";
  view.lease = 7587870310112345678;
  view.in_flight = 3;
  view.models = {{"a", "1", "READY", ""}};
  const json report = json::parse(ReportJson(view));
  EXPECT_EQ(report["state"], "failed");
  EXPECT_EQ(report["lease"], "7587870310112345678");
  EXPECT_EQ(report["inFlight"], "3");
  EXPECT_EQ(report["models"][0]["name"], "a");
}

TEST(EndpointTest, ListsOnlyModelsThatAreReady) {
  ReplicaConfig config;
  config.generation = 4;
  ReplicaView view;
  view.models = {{"a", "1", "READY", ""}, {"a", "2", "READY", ""}, {"b", "1", "UNAVAILABLE", "no"}};
  const json endpoint = json::parse(EndpointJson(config, view, "node7", "ready"));
  ASSERT_EQ(endpoint["models"].size(), 1U);
  EXPECT_EQ(endpoint["models"][0]["versions"], (json{"1", "2"}));
  EXPECT_EQ(endpoint["generation"], "4");
  EXPECT_EQ(endpoint["node"], "node7");
  EXPECT_EQ(endpoint["tls"], false);
}

}  // namespace
}  // namespace mesh::deployment
