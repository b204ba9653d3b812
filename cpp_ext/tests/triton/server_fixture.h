// Real Triton, real models, in this process.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "triton/library.h"
#include "triton/server.h"

namespace mesh::triton {

namespace fs = std::filesystem;
using std::chrono::seconds;

constexpr seconds kPatience{60};

class Waiter final : public InferCall {
 public:
  bool WaitDone() {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, kPatience, [this] { return response_.has_value() && released_; });
  }
  InferResponse Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    InferResponse response = std::move(*response_);
    response_.reset();
    return response;
  }

 private:
  void OnResponse(InferResponse response, bool final) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (final) response_.emplace(std::move(response));
    changed_.notify_all();
  }
  void OnReleased() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<InferResponse> response_;
  bool released_ = false;
};

inline void WriteModel(const fs::path& repository, const std::string& name, const std::string& extra) {
  fs::create_directories(repository / name / "1");
  std::ofstream(repository / name / "config.pbtxt") << "backend: \"identity\"\nmax_batch_size: 0\n"
                                                       "input [{name: \"IN\" data_type: TYPE_FP32 dims: [-1]}]\n"
                                                       "output [{name: \"OUT\" data_type: TYPE_FP32 dims: [-1]}]\n"
                                                    << extra;
}

inline std::string Delay(int ms) {
  return R"(parameters [{key: "execute_delay_ms" value: {string_value: ")" + std::to_string(ms) + R"("}}])" + '\n';
}

// Threads that want the processors, twice as many as there are, for as long as it lives.
class BusyProcessors {
 public:
  BusyProcessors() {
    for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i) {
      threads_.emplace_back([this] {
        while (!stop_.load(std::memory_order_relaxed)) continue;
      });
    }
  }
  ~BusyProcessors() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  BusyProcessors(const BusyProcessors&) = delete;
  BusyProcessors& operator=(const BusyProcessors&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

class ServerTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/mesh-server-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    options_.repository = name;
    options_.library = MESH_TEST_TRITON_FOLDER;
    options_.backend_directory = MESH_TEST_BACKENDS;
    options_.log_info = options_.log_warnings = options_.log_errors = false;
    WriteModel(name, "echo", "");
  }
  void TearDown() override { fs::remove_all(options_.repository); }

  std::unique_ptr<Server> Start() {
    Result<std::unique_ptr<Server>> started = Server::Start(options_);
    EXPECT_TRUE(started.ok()) << started.status().ToString();
    return started.ok() ? std::move(started).value() : nullptr;
  }

  // Sends `values` to `model`; the status of the submission.
  static Status Send(const Server& server, const char* model, const std::vector<float>& values,
                     const std::shared_ptr<Waiter>& waiter) {
    Result<RequestHandle> request = server.NewRequest(model, kAnyVersion);
    if (!request.ok()) return request.status();
    const auto dim = static_cast<std::int64_t>(values.size());
    TRITONSERVER_InferenceRequest* raw = request.value().get();
    Status status = ToStatus(GetApi().InferenceRequestAddInput(raw, "IN", TRITONSERVER_TYPE_FP32, &dim, 1));
    if (!status.ok()) return status;
    status = ToStatus(GetApi().InferenceRequestAppendInputData(raw, "IN", values.data(), values.size() * 4,
                                                               TRITONSERVER_MEMORY_CPU, 0));
    if (!status.ok()) return status;
    return server.Infer(std::move(request).value(), waiter);
  }

  ServerOptions options_;
};

inline std::vector<float> Numbers(std::size_t count) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), 0.5F);
  return values;
}

}  // namespace mesh::triton
