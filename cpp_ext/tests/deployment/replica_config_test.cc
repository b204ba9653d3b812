#include "deployment/replica_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace mesh::deployment {
namespace {

using nlohmann::json;

json Minimal() {
  return {{"id", "digits-r1-0"},
          {"namespace", "default"},
          {"application", "digits"},
          {"deployment", "model"},
          {"prepareCommand", {"prepare"}}};
}

std::string WhyNot(const json& config) { return ParseReplicaConfig(config.dump()).status().message(); }

TEST(ReplicaConfigTest, FillsInTheDefaults) {
  const auto config = ParseReplicaConfig(Minimal().dump());
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_EQ(config.value().listen_host, "127.0.0.1");
  EXPECT_EQ(config.value().advertise_host, "127.0.0.1");
  EXPECT_EQ(config.value().etcd.ttl_s, 5);
  EXPECT_EQ(config.value().drain_timeout.count(), 30000);
  EXPECT_EQ(config.value().max_message_bytes, (1UL << 31) - 1);
  EXPECT_GE(config.value().event_loops, 1);
  EXPECT_EQ(config.value().max_requests, 10000U);
  EXPECT_EQ(config.value().busy_poll.count(), 0);
  EXPECT_FALSE(config.value().serving_tls.has_value());
  EXPECT_EQ(EndpointKey(config.value()), "/mesh/v1/endpoints/default/digits/direct/model/digits-r1-0");
}

TEST(ReplicaConfigTest, ReadsEveryField) {
  json all = Minimal();
  all.update({{"cluster", "east"},
              {"generation", "7"},
              {"revision", 3},
              {"labels", {{"tier", "gold"}}},
              {"etcd",
               {{"endpoints", {"a:1", "b:2"}},
                {"tls", {{"ca", "ca.pem"}, {"cert", "c.pem"}, {"key", "k.pem"}}},
                {"user", "mesh"},
                {"passwordFile", "pw"}}},
              {"leaseTtlS", 9},
              {"triton",
               {{"models", {"m"}},
                {"backends", {{"openvino", {{"settings", {{"threads", "2"}}}}}}},
                {"eventLoops", 3},
                {"maxMessageBytes", "1000"},
                {"maxRequests", "64"},
                {"busyPollUs", 100},
                {"logVerbosity", 1},
                {"modelControl", "explicit"},
                {"responseCache", {{"type", "local"}, {"sizeBytes", "65536"}}},
                {"rateLimiter",
                 {{"mode", "execution_count"},
                  {"resources", {{{"name", "seats"}, {"count", 2}}, {{"name", "x"}, {"count", 1}, {"device", 0}}}}}}}},
              {"listenHost", "0.0.0.0"},
              {"listenPort", 8001},
              {"advertiseHost", "node7"},
              {"servingTls", {{"cert", "s.pem"}, {"key", "s.key"}}},
              {"drainTimeoutS", 1.5},
              {"logLevel", "debug"},
              {"logFile", "r.log"},
              {"fromTheFuture", {1, 2}}});
  const auto parsed = ParseReplicaConfig(all.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
  const ReplicaConfig& config = parsed.value();
  EXPECT_EQ(config.generation, 7);
  EXPECT_EQ(config.revision, 3);
  EXPECT_EQ(config.labels.at("tier"), "gold");
  EXPECT_EQ(config.etcd.endpoints, (std::vector<std::string>{"a:1", "b:2"}));
  EXPECT_EQ(config.etcd.tls->ca_file, "ca.pem");
  EXPECT_EQ(config.etcd.tls->key_file, "k.pem");
  EXPECT_EQ(config.etcd.password_file, "pw");
  EXPECT_EQ(config.etcd.ttl_s, 9);
  EXPECT_EQ(config.backends.at("openvino").at("threads"), "2");
  EXPECT_EQ(config.event_loops, 3);
  EXPECT_EQ(config.max_message_bytes, 1000U);
  EXPECT_EQ(config.max_requests, 64U);
  EXPECT_EQ(config.busy_poll.count(), 100);
  EXPECT_EQ(config.model_control, ingress::ModelControl::kExplicit);
  EXPECT_EQ(config.response_cache_bytes, 65536U);
  ASSERT_EQ(config.rate_limiter->size(), 2U);
  EXPECT_EQ(config.rate_limiter->at(0).name, "seats");
  EXPECT_EQ(config.rate_limiter->at(0).count, 2U);
  EXPECT_EQ(config.rate_limiter->at(0).device, -1);
  EXPECT_EQ(config.rate_limiter->at(1).device, 0);
  EXPECT_EQ(config.listen_port, 8001);
  EXPECT_EQ(config.advertise_host, "node7");
  EXPECT_EQ(config.serving_tls->cert_file, "s.pem");
  EXPECT_EQ(config.drain_timeout.count(), 1500);
  EXPECT_EQ(config.log.level, log::Level::kDebug);
  EXPECT_EQ(config.log.file, "r.log");
}

TEST(ReplicaConfigTest, NamesTheFieldThatIsWrong) {
  const std::vector<std::pair<json, std::string>> cases = {
      {{{"id", ""}}, "'id'"},
      {{{"namespace", "a/b"}}, "'namespace'"},
      {{{"prepareCommand", json::array()}}, "'prepareCommand'"},
      {{{"prepareCommand", "ls -l"}}, "'prepareCommand'"},
      {{{"listenPort", 70000}}, "'listenPort'"},
      {{{"listenPort", "http"}}, "'listenPort'"},
      {{{"generation", "seven"}}, "'generation'"},
      {{{"leaseTtlS", -1}}, "'leaseTtlS'"},
      {{{"drainTimeoutS", -1}}, "'drainTimeoutS'"},
      {{{"labels", {{"a", 1}}}}, "'labels'"},
      {{{"listenHost", "0.0.0.0"}}, "'advertiseHost'"},
      {{{"logLevel", "loud"}}, "'loud'"},
      {{{"triton", {{"eventLoops", 1000}}}}, "'triton.eventLoops'"},
      {{{"triton", {{"busyPollUs", 1001}}}}, "'busyPollUs' must be between 0 and 1000"},
      {{{"triton", {{"busyPollUs", -1}}}}, "'busyPollUs'"},
      {{{"cpp", {{"library", "/l.so"}, {"busyPollUs", 5000}}}}, "'busyPollUs'"},
      {{{"triton", {{"backends", {{"x", {{"settings", {{"a", 1}}}}}}}}}}, "'settings'"},
      {{{"triton", {{"responseCache", {{"sizeBytes", 5}}}}}}, "'responseCache.type'"},
      {{{"triton", {{"responseCache", {{"type", "redis"}, {"sizeBytes", 5}}}}}}, "'redis'"},
      {{{"triton", {{"responseCache", {{"type", "local"}}}}}}, "'responseCache.sizeBytes'"},
      {{{"triton", {{"rateLimiter", {{"mode", "off"}}}}}}, "'rateLimiter.mode'"},
      {{{"triton", {{"rateLimiter", {{"mode", "execution_count"}, {"resources", 5}}}}}}, "'rateLimiter.resources'"},
      {{{"triton", {{"rateLimiter", {{"mode", "execution_count"}, {"resources", {{{"name", "a"}}}}}}}}},
       "'rateLimiter.resources'"},
      {{{"etcd", "here"}}, "'etcd'"},
  };
  for (const auto& [change, named] : cases) {
    json config = Minimal();
    config.update(change);
    EXPECT_NE(WhyNot(config).find(named), std::string::npos) << change.dump() << " → " << WhyNot(config);
  }
}

TEST(ReplicaConfigTest, WhoListensEverywhereIsKnownByItsNodesAddress) {
  json config = Minimal();
  config["listenHost"] = "::";
  EXPECT_EQ(ParseReplicaConfig(config.dump(), "10.0.0.7").value().advertise_host, "10.0.0.7");
  config["advertiseHost"] = "node7";
  EXPECT_EQ(ParseReplicaConfig(config.dump(), "10.0.0.7").value().advertise_host, "node7");
  EXPECT_EQ(ParseReplicaConfig(Minimal().dump(), "10.0.0.7").value().advertise_host, "127.0.0.1");
}

TEST(ReplicaConfigTest, ARateLimiterNeedsNoMode) {
  json config = Minimal();
  config["triton"] = {{"rateLimiter", json::object()}};
  EXPECT_TRUE(ParseReplicaConfig(config.dump()).value().rate_limiter.has_value());
}

TEST(ReplicaConfigTest, RubbishIsAnError) {
  for (const char* text : {"", "rubbish", "[]", "7", "{\"id\":", "null"}) {
    EXPECT_EQ(ParseReplicaConfig(text).status().code(), Code::kInvalidArgument) << text;
  }
}

TEST(PreparedNodeTest, NeedsARepository) {
  EXPECT_EQ(ParsePreparedNode("{}").status().code(), Code::kDataLoss);
  const auto node = ParsePreparedNode(R"({"repositoryPath":"/r","cacheDirectory":"/c","env":{"A":"b"}})");
  ASSERT_TRUE(node.ok());
  EXPECT_EQ(node.value().repository_path, "/r");
  EXPECT_EQ(node.value().cache_directory, "/c");
  EXPECT_EQ(node.value().env.at("A"), "b");
}

}  // namespace
}  // namespace mesh::deployment
