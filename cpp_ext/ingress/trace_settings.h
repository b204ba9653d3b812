// The trace settings of a server and of its models: kept, checked, answered, and followed.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "ingress/request_trace.h"
#include "ingress/trace_sampler.h"
#include "triton/trace.h"

namespace mesh::ingress {

// A request's trace, and what Triton is to be given of it. Both are null for a request that is not traced.
struct SampledTrace {
  std::shared_ptr<RequestTrace> trace;
  triton::TraceHandle handle;
};

// By name: "trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode". The same in every
// form of the protocol.
using TraceSettingValues = std::map<std::string, std::vector<std::string>>;

// Thread-safe.
class TraceSettings {
 public:
  // `file`: where traces go, see TraceFile; empty: they cannot be turned on.
  explicit TraceSettings(const std::string& file);
  ~TraceSettings();
  TraceSettings(const TraceSettings&) = delete;
  TraceSettings& operator=(const TraceSettings&) = delete;

  // Changes what `wanted` names, of the server for an empty model; a setting without values goes back to what the
  // server has, or to its default. Settings that nobody knows are left out. INVALID_ARGUMENT names the wrong one, and
  // then nothing changes; the file is fixed (UNIMPLEMENTED). That the model exists is the caller's to see.
  Status Update(const std::string& model, const TraceSettingValues& wanted);
  // All six, as they stand.
  [[nodiscard]] TraceSettingValues Describe(const std::string& model) const;

  // For each request that is given to a model. Free while no traces are wanted.
  SampledTrace Sample(std::string_view model) {
    if (!sampling_.load(std::memory_order_relaxed)) return {};
    return SampleNow(model);
  }

 private:
  // What somebody set of a setting; the rest is taken from elsewhere.
  struct Specified {
    std::optional<std::uint32_t> level;
    std::optional<std::uint32_t> rate;
    std::optional<std::int32_t> count;
    std::optional<std::uint32_t> log_frequency;

    [[nodiscard]] bool nothing() const { return !level && !rate && !count && !log_frequency; }
    [[nodiscard]] bool everything() const { return level && rate && count && log_frequency; }
    [[nodiscard]] TraceValues Over(TraceValues below) const;
  };
  struct Setting {
    Specified specified;
    std::shared_ptr<TraceSampler> sampler;
  };

  using Samplers = std::vector<std::shared_ptr<TraceSampler>>;

  static Status Read(const TraceSettingValues& wanted, Specified* specified);
  SampledTrace SampleNow(std::string_view model);
  // The rest with mutex_ held.
  Result<std::shared_ptr<TraceSampler>> MakeSampler(const TraceValues& values) const;
  Status UpdateServer(const TraceSettingValues& wanted, Samplers* old);
  Status UpdateModel(const std::string& model, const TraceSettingValues& wanted, Samplers* old);
  Status SetModel(const std::string& model, const Specified& specified, Samplers* old);
  [[nodiscard]] const std::shared_ptr<TraceSampler>& Find(std::string_view model) const;

  const std::shared_ptr<TraceFile> file_;
  std::atomic<bool> sampling_{false};  // some setting wants traces
  mutable std::mutex mutex_;           // guards what follows
  Setting server_;
  std::map<std::string, Setting, std::less<>> models_;
};

}  // namespace mesh::ingress
