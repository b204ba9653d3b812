// An inference that a Python thread waits for.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "triton/infer.h"

namespace mesh::python {

class WaitingCall final : public triton::InferCall {
 public:
  // True when the answer is there and the inputs are not read any more; waits at most `limit`.
  bool WaitFor(std::chrono::milliseconds limit) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, limit, [this] { return response_.has_value() && released_; });
  }

  // After WaitFor returned true, once.
  triton::InferResponse TakeResponse() {
    const std::lock_guard<std::mutex> lock(mutex_);
    triton::InferResponse response = std::move(*response_);
    response_.reset();
    return response;
  }

  // Nobody waits any more. A response refers to its call, so one that were kept would keep both for ever.
  void Abandon() {
    std::optional<triton::InferResponse> dropped;  // ends after the lock
    const std::lock_guard<std::mutex> lock(mutex_);
    abandoned_ = true;
    dropped = std::move(response_);
    response_.reset();
  }

  [[nodiscard]] bool released() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return released_;
  }

  // More responses than one: the model is decoupled.
  [[nodiscard]] bool decoupled() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return decoupled_;
  }

 private:
  void OnResponse(triton::InferResponse response, bool final) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    decoupled_ = decoupled_ || !final;
    if (!final || abandoned_) return;
    response_.emplace(std::move(response));
    changed_.notify_all();
  }

  void OnReleased() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<triton::InferResponse> response_;  // guarded by mutex_
  bool released_ = false;                          // guarded by mutex_
  bool decoupled_ = false;                         // guarded by mutex_
  bool abandoned_ = false;                         // guarded by mutex_
};

}  // namespace mesh::python
