#include "ingress/trace_settings.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "triton/c_api.h"

namespace mesh::ingress {
namespace {

namespace fs = std::filesystem;

class TraceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("mesh_trace_test_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  [[nodiscard]] std::string File(const std::string& suffix = "") const {
    return (folder_ / "t.json").string() + suffix;
  }
  static std::string Read(const std::string& file) {
    std::ostringstream text;
    text << std::ifstream(file).rdbuf();
    return text.str();
  }

  fs::path folder_;
};

TEST_F(TraceTest, OneFileIsOneArray) {
  {
    TraceFile file(File(), 1000);
    file.Append("{\"id\":1}");
    file.Append("{\"id\":2}");
    EXPECT_EQ(Read(File()), "[{\"id\":1},{\"id\":2}");
    file.WriteNext("{\"id\":3}");
    file.WriteNext("{\"id\":4}");
  }
  EXPECT_EQ(Read(File()), "[{\"id\":1},{\"id\":2}]");
  EXPECT_EQ(Read(File(".0")), "[{\"id\":3}]");
  EXPECT_EQ(Read(File(".1")), "[{\"id\":4}]");
}

TEST_F(TraceTest, FilesAreBounded) {
  TraceFile file(File(), 20);
  file.WriteNext(std::string(15, '1'));
  EXPECT_FALSE(file.full());
  file.WriteNext(std::string(15, '2'));
  EXPECT_TRUE(file.full());
  EXPECT_FALSE(fs::exists(File(".1")));
  TraceSampler sampler({TRITONSERVER_TRACE_LEVEL_TIMESTAMPS, 1, -1, 1}, std::make_shared<TraceFile>(File(), 0));
  EXPECT_TRUE(sampler.Next());
  sampler.Collect("1");
  EXPECT_FALSE(sampler.Next()) << "nothing is traced for a file that is full";
}

TEST_F(TraceTest, ASymbolicLinkIsNotFollowed) {
  fs::create_symlink(folder_ / "elsewhere", File(".0"));
  TraceFile file(File(), 1000);
  file.WriteNext("1");
  EXPECT_FALSE(fs::exists(folder_ / "elsewhere"));
}

TEST_F(TraceTest, EveryThirdUpToACount) {
  TraceSampler sampler({TRITONSERVER_TRACE_LEVEL_TIMESTAMPS, 3, 2, 0}, std::make_shared<TraceFile>(File(), 1000));
  std::string chosen;
  for (int i = 0; i < 12; ++i) chosen += sampler.Next() ? '1' : '0';
  EXPECT_EQ(chosen, "001001000000");
  EXPECT_EQ(sampler.values().count, 0);
  sampler.Collect("1");
  EXPECT_FALSE(fs::exists(File(".0"))) << "the second one has begun and is not there yet";
  sampler.Collect("2");
  EXPECT_EQ(Read(File(".0")), "[1,2]");
}

TEST_F(TraceTest, WhatIsLeftIsWrittenAtTheEnd) {
  const auto file = std::make_shared<TraceFile>(File(), 1000);
  {
    TraceSampler sampler({TRITONSERVER_TRACE_LEVEL_TIMESTAMPS, 1, -1, 2}, file);
    for (const char* text : {"1", "2", "3"}) {
      ASSERT_TRUE(sampler.Next());
      sampler.Collect(text);
    }
    EXPECT_EQ(Read(File(".0")), "[1,2]");
  }
  EXPECT_EQ(Read(File(".1")), "[3]");
}

TEST_F(TraceTest, ManyThreadsLoseNothing) {
  constexpr int kThreads = 8;
  constexpr int kEach = 500;
  {
    TraceSampler sampler({TRITONSERVER_TRACE_LEVEL_TIMESTAMPS, 2, -1, 0}, std::make_shared<TraceFile>(File(), 1 << 20));
    std::vector<std::thread> threads;
    threads.reserve(kThreads);
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&sampler] {
        for (int j = 0; j < kEach; ++j) {
          if (sampler.Next()) sampler.Collect("x");
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  const std::string text = Read(File());
  EXPECT_EQ(std::count(text.begin(), text.end(), 'x'), kThreads * kEach / 2);
}

TEST_F(TraceTest, ModelsFollowTheServerInWhatTheyDoNotSet) {
  TraceSettings settings(File());
  ASSERT_TRUE(settings.Update("m", {{"trace_count", {"7"}}}).ok());
  ASSERT_TRUE(settings.Update("", {{"trace_rate", {"50"}}}).ok());
  EXPECT_EQ(settings.Describe("m")["trace_rate"], std::vector<std::string>{"50"});
  EXPECT_EQ(settings.Describe("m")["trace_count"], std::vector<std::string>{"7"});
  EXPECT_EQ(settings.Describe("other")["trace_count"], std::vector<std::string>{"-1"});
  ASSERT_TRUE(settings.Update("m", {{"trace_count", {}}}).ok());
  EXPECT_EQ(settings.Describe("m"), settings.Describe(""));
}

TEST_F(TraceTest, ARefusedUpdateChangesNothing) {
  TraceSettings settings(File());
  const TraceSettingValues before = settings.Describe("");
  const std::vector<TraceSettingValues> wrong{{{"trace_rate", {"5"}}, {"trace_count", {"x"}}},
                                              {{"trace_rate", {"5"}}, {"trace_file", {"/etc/passwd"}}},
                                              {{"trace_level", {"TIMESTAMPS"}}, {"trace_rate", {"0"}}},
                                              {{"log_frequency", {"1", "2"}}},
                                              {{"trace_count", {"-2"}}}};
  for (const TraceSettingValues& wanted : wrong) {
    EXPECT_FALSE(settings.Update("", wanted).ok());
    EXPECT_EQ(settings.Describe(""), before);
  }
}

TEST_F(TraceTest, WithoutAFileNothingCanBeTraced) {
  TraceSettings settings("");
  const Status status = settings.Update("", {{"trace_level", {"TIMESTAMPS"}}});
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("file name is not given"), std::string::npos);
  EXPECT_EQ(settings.Sample("m").trace, nullptr);
}

}  // namespace
}  // namespace mesh::ingress
