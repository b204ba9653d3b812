// A server that goes from one folder of models to another while requests come.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "common/file.h"
#include "tests/triton/server_fixture.h"

namespace mesh::triton {
namespace {

std::string Mark(const std::string& text) {
  return R"(parameters [{key: "mark" value: {string_value: ")" + text + R"("}}])" + '\n';
}

int CountOf(const std::string& text, const std::string& part) {
  int count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

class SwitchTest : public ServerTest {
 protected:
  void TearDown() override {
    for (const std::string& folder : folders_) fs::remove_all(folder);
    ServerTest::TearDown();
  }
  // A new, empty folder.
  std::string Folder() {
    char name[] = "/tmp/mesh-switch-XXXXXX";
    folders_.emplace_back(mkdtemp(name));
    return folders_.back();
  }
  static std::string MarkOf(const Server& server, const std::string& model) {
    const std::string config = server.ModelConfig(model).value();
    const std::size_t at = config.find(R"("mark":{"string_value":")");
    return at == std::string::npos ? "" : config.substr(at + 24, config.find('"', at + 24) - at - 24);
  }
  static Status Ask(const Server& server, const char* model) {
    const std::vector<float> values = Numbers(4);
    auto waiter = std::make_shared<Waiter>();
    if (Status sent = Send(server, model, values, waiter); !sent.ok()) return sent;
    if (!waiter->WaitDone()) return {Code::kDeadlineExceeded, "no answer"};
    const InferResponse response = waiter->Take();
    return response.status();
  }
  static bool GoneSoon(const Server& server, const std::string& model) {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (std::chrono::steady_clock::now() < until) {
      const Result<bool> ready = server.IsModelReady(model);
      if (!ready.ok() || !ready.value()) return true;
      std::this_thread::yield();
    }
    return false;
  }

 private:
  std::vector<std::string> folders_;
};

TEST_F(SwitchTest, ModelsAreReplacedAddedAndRemoved) {
  WriteModel(options_.repository, "echo", Mark("first"));
  WriteModel(options_.repository, "old", "");
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  const std::string next = Folder();
  WriteModel(next, "echo", Mark("second"));
  WriteModel(next, "new", "");
  const Status status = server->SwitchRepository(next, {});
  ASSERT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(MarkOf(*server, "echo"), "second");
  EXPECT_TRUE(Ask(*server, "new").ok());
  EXPECT_TRUE(GoneSoon(*server, "old"));
  EXPECT_TRUE(server->IsReady());
  EXPECT_TRUE(server->SwitchRepository(next, {"echo"}).code() != Code::kOk) << "Triton has that folder already";
  EXPECT_EQ(MarkOf(*server, "echo"), "second");
}

// So that memory is returned, and ends do not overlap.
TEST_F(SwitchTest, WhatServedBeforeHasEndedWhenItReturns) {
  options_.log_info = true;
  options_.log_file = Folder() + "/log";
  WriteModel(options_.repository, "old", "");
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  for (int round = 1; round <= 5; ++round) {
    const std::string next = Folder();
    WriteModel(next, "echo", Mark(std::to_string(round)));
    ASSERT_TRUE(server->SwitchRepository(next, {}).ok());
    const std::string log = ReadFile(options_.log_file).value();
    EXPECT_EQ(CountOf(log, "successfully unloaded 'echo' version 1"), round) << log;
    EXPECT_EQ(CountOf(log, "successfully unloaded 'old' version 1"), 1);
  }
}

TEST_F(SwitchTest, TheServerIsReadyAllTheTime) {
  WriteModel(options_.repository, "leaving", Delay(100));
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  const std::string next = Folder();
  WriteModel(next, "echo", Mark("second"));
  auto waiter = std::make_shared<Waiter>();
  const std::vector<float> values = Numbers(4);
  ASSERT_TRUE(Send(*server, "leaving", values, waiter).ok());
  std::atomic<bool> over{false};
  std::atomic<int> not_ready{0};
  std::thread watcher([&] {
    while (!over.load()) not_ready += server->IsReady() ? 0 : 1;
  });
  EXPECT_TRUE(server->SwitchRepository(next, {}).ok());
  over.store(true);
  watcher.join();
  EXPECT_EQ(not_ready.load(), 0);
  ASSERT_TRUE(waiter->WaitDone());
  EXPECT_TRUE(waiter->Take().status().ok()) << "it was answered before its model ended";
}

// As of an artifact that was made earlier, or on a machine whose clock went back.
TEST_F(SwitchTest, OlderFilesAreLoadedToo) {
  WriteModel(options_.repository, "echo", Mark("first"));
  const auto now = fs::file_time_type::clock::now();
  for (const auto& entry : fs::recursive_directory_iterator(options_.repository)) {
    fs::last_write_time(entry.path(), now + std::chrono::hours(5));
  }
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  for (const std::string mark : {"second", "third"}) {
    const std::string next = Folder();
    WriteModel(next, "echo", Mark(mark));
    for (const auto& entry : fs::recursive_directory_iterator(next)) {
      fs::last_write_time(entry.path(), now - std::chrono::hours(5));
    }
    ASSERT_TRUE(server->SwitchRepository(next, {}).ok());
    EXPECT_EQ(MarkOf(*server, "echo"), mark);
  }
}

// Triton keeps a version whose folder is not newer, when the configuration is the same.
TEST_F(SwitchTest, OlderVersionsWithTheSameConfigurationAreLoadedToo) {
  options_.log_info = true;
  options_.log_file = Folder() + "/log";
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  const auto now = fs::file_time_type::clock::now();
  for (int round = 1; round <= 3; ++round) {
    const std::string next = Folder();
    WriteModel(next, "echo", "");
    fs::last_write_time(next + "/echo/1", now - std::chrono::hours(round));
    ASSERT_TRUE(server->SwitchRepository(next, {}).ok());
    EXPECT_EQ(CountOf(ReadFile(options_.log_file).value(), "successfully loaded 'echo'"), round + 1);
  }
}

TEST_F(SwitchTest, AModelThatCannotBeLoadedLeavesAllAsItWas) {
  WriteModel(options_.repository, "echo", Mark("first"));
  WriteModel(options_.repository, "zebra", Mark("first"));
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  for (const std::string fault : {"backend: \"nothing\"\n",
                                  "parameters [{key: \"execute_delay_ms\" "
                                  "value: {string_value: \"x\"}}]\n"}) {
    const std::string next = Folder();
    WriteModel(next, "added", "");
    WriteModel(next, "echo", Mark("second"));
    WriteModel(next, "zebra", fault);
    const Status status = server->SwitchRepository(next, {});
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find("zebra"), std::string::npos) << status.ToString();
    EXPECT_EQ(MarkOf(*server, "echo"), "first");
    EXPECT_EQ(MarkOf(*server, "zebra"), "first");
    EXPECT_TRUE(Ask(*server, "zebra").ok());
    EXPECT_TRUE(server->IsReady());
    EXPECT_TRUE(GoneSoon(*server, "added"));
  }
  const std::string good = Folder();
  WriteModel(good, "echo", Mark("third"));
  ASSERT_TRUE(server->SwitchRepository(good, {}).ok());
  EXPECT_EQ(MarkOf(*server, "echo"), "third");
  // Triton goes on counting a version that failed beside an older one: that must not hold up the end.
  const auto began = std::chrono::steady_clock::now();
  EXPECT_TRUE(server->Stop().ok());
  EXPECT_LT(std::chrono::steady_clock::now() - began, seconds(options_.exit_timeout_s) / 2);
}

TEST_F(SwitchTest, WhatAClientHadLoadedLeavesToo) {
  WriteModel(options_.repository, "other", "");
  options_.models = {"echo"};
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  ASSERT_TRUE(server->LoadModel("other").ok());
  const std::string next = Folder();
  WriteModel(next, "echo", Mark("second"));
  WriteModel(next, "other", Mark("second"));
  ASSERT_TRUE(server->SwitchRepository(next, {"echo"}).ok());
  EXPECT_TRUE(GoneSoon(*server, "other")) << "it would go on with files of the revision before";
  ASSERT_TRUE(server->LoadModel("other").ok());
  EXPECT_EQ(MarkOf(*server, "other"), "second");
}

TEST_F(SwitchTest, EnsemblesAreRefused) {
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  const std::string next = Folder();
  WriteModel(next, "echo", "");
  fs::create_directories(next + "/chain/1");
  std::ofstream(next + "/chain/config.pbtxt") << "platform: \"ensemble\"\n";
  const Status status = server->SwitchRepository(next, {});
  EXPECT_EQ(status.code(), Code::kUnimplemented) << status.ToString();
  EXPECT_NE(status.message().find("'chain' is an ensemble"), std::string::npos) << status.ToString();
  EXPECT_TRUE(Ask(*server, "echo").ok());
}

TEST_F(SwitchTest, AFolderWithoutModelsIsRefused) {
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  EXPECT_NE(server->SwitchRepository(Folder(), {}).message().find("holds no models"), std::string::npos);
  EXPECT_FALSE(server->SwitchRepository("/nowhere/models", {}).ok());
  EXPECT_TRUE(Ask(*server, "echo").ok());
}

TEST_F(SwitchTest, NoRequestFailsAndRunningOnesFinish) {
  WriteModel(options_.repository, "slow", Delay(50));
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  std::atomic<bool> over{false};
  std::atomic<int> good{0};
  std::mutex mutex;
  std::string failure;
  std::vector<std::thread> clients;
  for (const char* model : {"echo", "echo", "slow"}) {
    clients.emplace_back([&, model] {
      while (!over.load()) {
        const Status status = Ask(*server, model);
        if (status.ok()) {
          ++good;
          continue;
        }
        const std::lock_guard<std::mutex> lock(mutex);
        failure = status.ToString();
      }
    });
  }
  for (int round = 0; round < 20; ++round) {
    const std::string next = Folder();
    WriteModel(next, "echo", Mark(std::to_string(round)));
    WriteModel(next, "slow", Delay(20 + round));
    EXPECT_TRUE(server->SwitchRepository(next, {}).ok());
    EXPECT_EQ(MarkOf(*server, "echo"), std::to_string(round));
  }
  over.store(true);
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(failure, "");
  EXPECT_GT(good.load(), 100);
}

}  // namespace
}  // namespace mesh::triton
