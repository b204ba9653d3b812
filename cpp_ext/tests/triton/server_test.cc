#include "triton/server.h"

#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/triton/server_fixture.h"

namespace mesh::triton {
namespace {

// Small outputs lie in the call, large ones on the heap; both must outlive response and call.
TEST_F(ServerTest, OutputsOutliveTheirResponse) {
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  for (const std::size_t count : {0, 1, 16, 64, 65, 200, 5000}) {
    const std::vector<float> values = Numbers(count);
    auto waiter = std::make_shared<Waiter>();
    ASSERT_TRUE(Send(*server, "echo", values, waiter).ok());
    ASSERT_TRUE(waiter->WaitDone());
    std::optional<InferResponse> response = waiter->Take();
    ASSERT_TRUE(response->status().ok()) << response->status().ToString();
    ASSERT_EQ(response->output_count(), 1U);
    const Output output = response->GetOutput(0).value();
    EXPECT_STREQ(output.name, "OUT");
    EXPECT_EQ(output.dims, 1U);
    const rpc::Slice slice = response->Share(output);
    response.reset();
    waiter.reset();
    ASSERT_EQ(slice.size(), count * 4);
    if (count > 0) {
      EXPECT_EQ(std::memcmp(slice.data(), values.data(), slice.size()), 0);
    }
  }
}

TEST_F(ServerTest, FailedSubmissionCallsNobody) {
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  EXPECT_EQ(Send(*server, "nobody", {1}, std::make_shared<Waiter>()).code(), Code::kNotFound);
  auto waiter = std::make_shared<Waiter>();
  Result<RequestHandle> request = server->NewRequest("echo", kAnyVersion);
  ASSERT_TRUE(request.ok());
  const Status status = server->Infer(std::move(request).value(), waiter);
  EXPECT_EQ(status.code(), Code::kInvalidArgument) << status.ToString();
  EXPECT_EQ(waiter.use_count(), 1) << "Triton's references must be given back";
}

// Threads that want the processors stop the model's thread where it has loaded the model and does not wait for work
// yet; Triton then died of the model's end, once in about ten starts.
TEST_F(ServerTest, AModelEndsRightAfterItsStart) {
  const BusyProcessors busy;
  for (int turn = 0; turn < 20; ++turn) {
    const std::unique_ptr<Server> server = Start();
    ASSERT_NE(server, nullptr);
    EXPECT_TRUE(server->Stop().ok());
  }
}

TEST_F(ServerTest, AModelsEndWaitsForItsRequestsOnly) {
  WriteModel(options_.repository, "slow", Delay(1500));
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  auto waiter = std::make_shared<Waiter>();
  ASSERT_TRUE(Send(*server, "slow", {1}, waiter).ok());
  const auto began = std::chrono::steady_clock::now();
  Server::HeldVersions held;
  ASSERT_TRUE(server->UnloadOnRequest("echo", Dependents::kKeep, &held).ok());
  EXPECT_EQ(held.references.size(), 1U);
  server->End(std::move(held), began + kPatience);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::milliseconds(1400));
  EXPECT_FALSE(server->IsModelReady("echo").value());
  ASSERT_TRUE(server->UnloadOnRequest("slow", Dependents::kKeep, &held).ok());
  server->End(std::move(held), began + kPatience);
  EXPECT_GE(std::chrono::steady_clock::now() - began, std::chrono::milliseconds(1400)) << "its own request runs";
  ASSERT_TRUE(waiter->WaitDone());
  EXPECT_TRUE(waiter->Take().status().ok());
}

TEST_F(ServerTest, EndsAtTheSameTimeWaitForEachOther) {
  for (int i = 0; i < 4; ++i) WriteModel(options_.repository, "m" + std::to_string(i), "");
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  const BusyProcessors busy;
  const auto until = std::chrono::steady_clock::now() + kPatience;
  std::vector<std::thread> enders;
  for (int i = 0; i < 4; ++i) {
    enders.emplace_back([&, i] { EXPECT_TRUE(server->EndModel("m" + std::to_string(i), until).ok()); });
  }
  for (std::thread& ender : enders) ender.join();
  EXPECT_LT(std::chrono::steady_clock::now(), until - kPatience / 2);
}

// Triton does not set the number of its tries: with memory that is not zero it was thousands of millions.
TEST_F(ServerTest, ABadModelIsLoadedOnce) {
  fs::create_directories(options_.repository + "/bad/1");
  std::ofstream(options_.repository + "/bad/config.pbtxt") << "backend: \"nope\"\n";
  // In a process of its own, which does not stop the server: Triton's end of a model reads memory of its beginning that
  // it has not written either, and dies of it where that is not zero.
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto start = [this] {
    mallopt(M_PERTURB, 0x55);
    const std::unique_ptr<Server> server = Start();
    const bool named = server != nullptr && server->loads().front().status.message().find("nope") != std::string::npos;
    fs::remove_all(options_.repository);
    _exit(named ? 0 : 1);
  };
  EXPECT_EXIT(start(), testing::ExitedWithCode(0), "");
}

TEST_F(ServerTest, OneBadModelHasAReasonAndStopsNoOther) {
  WriteModel(options_.repository, "broken", "backend: \"nothing\"\n");
  WriteModel(options_.repository, "odd", "parameters [{key: \"execute_delay_ms\" value: {string_value: \"x\"}}]\n");
  options_.models = {"echo", "broken", "odd", "absent"};
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  ASSERT_EQ(server->loads().size(), 4U);
  for (const ModelLoad& load : server->loads()) {
    EXPECT_EQ(load.status.ok(), load.name == "echo") << load.name << ": " << load.status.ToString();
    if (!load.status.ok()) {
      EXPECT_NE(load.status.message().find(load.name), std::string::npos);
    }
  }
  EXPECT_TRUE(server->IsModelReady("echo").value());
  EXPECT_FALSE(server->IsModelReady("odd").value());
  EXPECT_TRUE(server->IsLive());
  EXPECT_FALSE(server->IsReady()) << "a model that was wanted is missing";
}

// What Triton only writes into its log.
TEST_F(ServerTest, FoldersThatCannotBeReadHaveAReasonToo) {
  WriteModel(options_.repository, "text", "max_batch_size: \n");
  fs::create_directories(fs::path(options_.repository) / "empty" / "1");
  WriteModel(options_.repository, "bare", "");
  fs::rename(fs::path(options_.repository) / "bare" / "1", fs::path(options_.repository) / "bare" / "one");
  options_.models = {"text", "empty", "bare", "absent"};
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  const std::vector<std::string> reasons{"text/config.pbtxt", "Could not determine backend",
                                         options_.repository + "/bare/1'; the model's folder holds: config.pbtxt, one",
                                         options_.repository + "/absent'; the repository holds: bare, echo, empty"};
  for (std::size_t i = 0; i < reasons.size(); ++i) {
    const std::string message = server->loads()[i].status.message();
    EXPECT_NE(message.find(server->loads()[i].name), std::string::npos) << message;
    EXPECT_NE(message.find(reasons[i]), std::string::npos) << message;
  }
}

TEST_F(ServerTest, StartNamesWhatIsWrong) {
  ServerOptions bad = options_;
  bad.repository = "/nowhere/models";
  EXPECT_NE(Server::Start(bad).status().message().find("/nowhere/models"), std::string::npos);
  bad = options_;
  bad.backend_directory = "/nowhere/backends";
  EXPECT_NE(Server::Start(bad).status().message().find("/nowhere/backends"), std::string::npos);
  bad = options_;
  fs::remove_all(fs::path(options_.repository) / "echo");
  EXPECT_NE(Server::Start(bad).status().message().find("holds no models"), std::string::npos);
}

TEST_F(ServerTest, CancelEndsWhatIsQueued) {
  WriteModel(options_.repository, "slow", Delay(1000));
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  const std::vector<float> values = Numbers(4);
  std::vector<std::shared_ptr<Waiter>> waiters;
  for (int i = 0; i < 5; ++i) {
    waiters.push_back(std::make_shared<Waiter>());
    ASSERT_TRUE(Send(*server, "slow", values, waiters.back()).ok());
  }
  for (std::size_t i = 1; i < waiters.size(); ++i) waiters[i]->Cancel();
  std::size_t cancelled = 0;
  for (const auto& waiter : waiters) {
    ASSERT_TRUE(waiter->WaitDone());
    const Status status = waiter->Take().status();
    cancelled += status.code() == Code::kCancelled ? 1 : 0;
    waiter->Cancel();  // after the end: nothing
  }
  EXPECT_GE(cancelled, 3U);
}

// Cancels from another thread at any moment of a request's life.
TEST_F(ServerTest, CancelRacesWithTheEnd) {
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  const std::vector<float> values = Numbers(16);
  for (int round = 0; round < 500; ++round) {
    auto waiter = std::make_shared<Waiter>();
    std::thread canceller([waiter] { waiter->Cancel(); });
    const Status sent = Send(*server, "echo", values, waiter);
    canceller.join();
    ASSERT_TRUE(sent.ok());
    ASSERT_TRUE(waiter->WaitDone());
    const Status status = waiter->Take().status();
    EXPECT_TRUE(status.ok() || status.code() == Code::kCancelled) << status.ToString();
  }
}

TEST_F(ServerTest, StopWaitsForRunningRequestsAndRefusesNewOnes) {
  WriteModel(options_.repository, "slow", Delay(1000));
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  const std::vector<float> values = Numbers(4);
  auto waiter = std::make_shared<Waiter>();
  ASSERT_TRUE(Send(*server, "slow", values, waiter).ok());
  Status stopped;
  std::thread stopper([&] { stopped = server->Stop(); });
  const bool done = waiter->WaitDone();
  // A response that is kept would keep its model loaded.
  const Status answer = done ? waiter->Take().status() : Status(Code::kDeadlineExceeded, "no answer");
  stopper.join();
  EXPECT_TRUE(stopped.ok()) << stopped.ToString();
  EXPECT_TRUE(answer.ok()) << answer.ToString();
  EXPECT_EQ(Send(*server, "echo", values, std::make_shared<Waiter>()).code(), Code::kUnavailable);
  EXPECT_FALSE(server->IsReady());
  EXPECT_TRUE(server->Stop().ok());
}

TEST_F(ServerTest, StopThatTakesTooLongSaysSoAndCrashesNothing) {
  WriteModel(options_.repository, "slow", Delay(5000));
  options_.exit_timeout_s = 1;
  std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  const std::vector<float> values = Numbers(4);
  auto waiter = std::make_shared<Waiter>();
  ASSERT_TRUE(Send(*server, "slow", values, waiter).ok());
  EXPECT_EQ(server->Stop().code(), Code::kUnavailable);
  server.reset();
  ASSERT_TRUE(waiter->WaitDone());
  EXPECT_TRUE(waiter->Take().status().ok());
}

TEST_F(ServerTest, ManyThreads) {
  const std::unique_ptr<Server> server = Start();
  ASSERT_NE(server, nullptr);
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const std::vector<float> values = Numbers(static_cast<std::size_t>(1 + (t * 37 + i) % 300));
        auto waiter = std::make_shared<Waiter>();
        if (!Send(*server, "echo", values, waiter).ok() || !waiter->WaitDone()) continue;
        const InferResponse response = waiter->Take();
        const Output output = response.GetOutput(0).value();
        const bool same = output.size == values.size() * 4 && std::memcmp(output.data, values.data(), output.size) == 0;
        good += same ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good.load(), 1600);
}

}  // namespace
}  // namespace mesh::triton
