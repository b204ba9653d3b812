#include "common/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace mesh::log {
namespace {

class LogFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "log_test_XXXXXX";
    const int fd = mkstemp(pattern.data());
    ASSERT_GE(fd, 0);
    close(fd);
    path_ = pattern;
  }
  void TearDown() override {
    ASSERT_TRUE(Configure({}).ok());
    unlink(path_.c_str());
  }
  std::vector<nlohmann::json> Records() {
    std::vector<nlohmann::json> records;
    std::ifstream file(path_);
    for (std::string line; std::getline(file, line);) records.push_back(nlohmann::json::parse(line));
    return records;
  }

  std::string path_;
};

TEST(LogFormatTest, WritesTimeLevelMessageBaseAndKeysInOrder) {
  const auto when = std::chrono::system_clock::time_point(std::chrono::milliseconds(1700000000123));
  const std::vector<Field> fields = {{"lease", std::int64_t{-7}}, {"ok", true}, {"wait_s", 0.25}, {"who", "a\"b"}};
  EXPECT_EQ(Format(when, Level::kWarning, "lease granted", {{"namespace", "default"}}, fields.data(), fields.size()),
            R"({"ts":"2023-11-14T22:13:20.123Z","level":"warning","msg":"lease granted","namespace":"default",)"
            R"("lease":-7,"ok":true,"wait_s":0.25,"who":"a\"b"})");
}

TEST(LogFormatTest, TakesRubbishBytes) {
  const Field field("bytes", std::string_view("\xff\x00\n", 3));
  const std::string line = Format({}, Level::kError, "odd", {}, &field, 1);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_TRUE(nlohmann::json::accept(line));
}

TEST(LogFormatTest, NumbersThatJsonDoesNotKnowAreText) {
  const Field field("load", std::numeric_limits<double>::infinity());
  EXPECT_EQ(nlohmann::json::parse(Format({}, Level::kInfo, "x", {}, &field, 1))["load"], "inf");
}

TEST(LogLevelTest, ParsesNamesAndNamesTheAllowedOnes) {
  EXPECT_EQ(ParseLevel("").value(), Level::kInfo);
  EXPECT_EQ(ParseLevel("error").value(), Level::kError);
  EXPECT_NE(ParseLevel("loud").status().message().find("debug, info, warning, error"), std::string::npos);
}

TEST_F(LogFileTest, KeepsBelowTheLevelOut) {
  ASSERT_TRUE(Configure({Level::kWarning, path_, {{"replica", "r-0"}}}).ok());
  Info("not this");
  Warning("this", {{"n", 1}});
  const auto records = Records();
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0]["msg"], "this");
  EXPECT_EQ(records[0]["replica"], "r-0");
  EXPECT_EQ(records[0]["n"], 1);
}

TEST_F(LogFileTest, LinesOfManyThreadsDoNotMix) {
  ASSERT_TRUE(Configure({Level::kInfo, path_, {}}).ok());
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int thread = 0; thread < 8; ++thread) {
    threads.emplace_back([thread] {
      for (int index = 0; index < 200; ++index) Info("line", {{"thread", thread}, {"index", index}});
    });
  }
  for (auto& thread : threads) thread.join();
  std::set<std::pair<int, int>> seen;
  for (const auto& record : Records()) seen.emplace(record["thread"].get<int>(), record["index"].get<int>());
  EXPECT_EQ(seen.size(), 1600U);
}

TEST_F(LogFileTest, AFileThatCannotBeOpenedLeavesTheLogAsItWas) {
  ASSERT_TRUE(Configure({Level::kInfo, path_, {}}).ok());
  const Status status = Configure({Level::kInfo, "/no/such/folder/log", {}});
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_NE(status.message().find("/no/such/folder/log"), std::string::npos);
  Info("still here");
  EXPECT_EQ(Records().size(), 1U);
}

TEST(RateLimitTest, LetsOneThroughPerIntervalAndCountsTheRest) {
  using std::chrono::seconds;
  const auto start = std::chrono::steady_clock::time_point(seconds(1000));
  RateLimit limit(seconds(10));
  EXPECT_EQ(limit.Pass(start), 0);
  EXPECT_EQ(limit.Pass(start + seconds(1)), -1);
  EXPECT_EQ(limit.Pass(start + seconds(9)), -1);
  EXPECT_EQ(limit.Pass(start + seconds(10)), 2);
  EXPECT_EQ(limit.Pass(start + seconds(30)), 0);
}

TEST(RateLimitTest, LetsABurstThroughAfterATimeWithoutAny) {
  using std::chrono::seconds;
  const auto start = std::chrono::steady_clock::time_point(seconds(1000));
  RateLimit limit(seconds(10), 3);
  for (int record = 0; record < 3; ++record) EXPECT_EQ(limit.Pass(start), 0);
  EXPECT_EQ(limit.Pass(start), -1);
  EXPECT_EQ(limit.Pass(start + seconds(9)), -1);
  EXPECT_EQ(limit.Pass(start + seconds(10)), 2);
  EXPECT_EQ(limit.Pass(start + seconds(11)), -1);
  for (int record = 0; record < 3; ++record) EXPECT_EQ(limit.Pass(start + seconds(1000)), record == 0 ? 1 : 0);
  EXPECT_EQ(limit.Pass(start + seconds(1000)), -1);
}

}  // namespace
}  // namespace mesh::log
