// Which requests are traced, and what becomes of their traces, under one trace setting.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "ingress/trace_file.h"

namespace mesh::ingress {

// What `tritonserver` calls a trace setting; the defaults are its own.
struct TraceValues {
  std::uint32_t level = 0;          // bits of TRITONSERVER_InferenceTraceLevel; 0: no traces
  std::uint32_t rate = 1000;        // every so manieth request
  std::int32_t count = -1;          // so many traces in all; -1: without end
  std::uint32_t log_frequency = 0;  // traces per file; 0: all into one
};

// One setting, from when it was made to when another took its place and the last of its requests was answered.
// Thread-safe.
class TraceSampler {
 public:
  TraceSampler(const TraceValues& values, std::shared_ptr<TraceFile> file);
  ~TraceSampler();  // writes what is left
  TraceSampler(const TraceSampler&) = delete;
  TraceSampler& operator=(const TraceSampler&) = delete;

  // Whether the request that now begins is to be traced. Each yes must be followed by one Collect.
  bool Next();
  // Takes the text of one trace; empty for one that could not be made.
  void Collect(const std::string& trace);

  [[nodiscard]] bool active() const;
  [[nodiscard]] std::uint32_t level() const { return values_.level; }
  [[nodiscard]] bool wants_timestamps() const;
  // As given, but for the count, of which what is left.
  [[nodiscard]] TraceValues values() const;

 private:
  const TraceValues values_;
  const std::shared_ptr<TraceFile> file_;
  mutable std::mutex mutex_;  // guards what follows
  std::int32_t count_left_;
  std::uint64_t seen_ = 0;
  std::uint64_t begun_ = 0;
  std::uint64_t collected_ = 0;
  std::uint32_t waiting_ = 0;  // traces in text_
  std::string text_;
};

}  // namespace mesh::ingress
