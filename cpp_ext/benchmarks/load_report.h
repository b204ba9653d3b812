// What a load generator saw, as one line of JSON.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "common/status.h"

namespace mesh::load {

// Requests by the tenth of a second in which they were sent. Thread-safe.
class Report {
 public:
  explicit Report(std::chrono::steady_clock::time_point start) : start_(start) {}

  void Sent(std::chrono::steady_clock::time_point sent);
  void Done(std::chrono::steady_clock::time_point sent, const Status& status);
  [[nodiscard]] bool complete() const;

  // {"slices": [{"sent", "codes": {"OK": n, ...}, "ok_us": [...], "failed_us": [...]}], "messages": {"<code>": "..."}}:
  // of each slice the latencies of answers and of refusals, of each code the first message.
  [[nodiscard]] std::string Json() const;

 private:
  struct Slice {
    std::uint64_t sent = 0;
    std::map<std::string, std::uint64_t> codes;
    std::vector<std::int64_t> ok_us;
    std::vector<std::int64_t> failed_us;
  };

  Slice& SliceOf(std::chrono::steady_clock::time_point sent);

  const std::chrono::steady_clock::time_point start_;
  mutable std::mutex mutex_;
  std::vector<Slice> slices_;
  std::map<std::string, std::string> messages_;
  std::uint64_t open_ = 0;
};

}  // namespace mesh::load
