// The calls that run, by the number that goes with each request as a parameter. Triton gives a model nothing of the
// client: by this number the code of a deployment finds the call that its request belongs to.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

namespace mesh::triton {

class InferCall;

// The last parameter of this name is ours; clients may send others.
inline constexpr char kCallParameter[] = "mesh_call";

// Thread-safe.
class LiveCalls {
 public:
  std::uint64_t Add(const std::shared_ptr<InferCall>& call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_.emplace(++last_, call);
    return last_;
  }
  void Remove(std::uint64_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_.erase(number);
  }
  // Null when it has ended, or never was.
  [[nodiscard]] std::shared_ptr<InferCall> Find(std::uint64_t number) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = calls_.find(number);
    return found == calls_.end() ? nullptr : found->second.lock();
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, std::weak_ptr<InferCall>> calls_;
  std::uint64_t last_ = 0;
};

}  // namespace mesh::triton
