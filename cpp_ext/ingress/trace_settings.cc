#include "ingress/trace_settings.h"

#include <limits>
#include <stdexcept>
#include <utility>

#include "common/log.h"
#include "triton/c_api.h"

namespace mesh::ingress {
namespace {

using Texts = std::vector<std::string>;

// Of all trace files of one process: a client that turns traces on must not fill the disk.
constexpr std::uint64_t kMaxFileBytes = 1UL << 30;

Status Invalid(std::string message) { return {Code::kInvalidArgument, std::move(message)}; }

Status ReadLevel(const Texts& texts, std::optional<std::uint32_t>* level) {
  if (texts.empty()) {
    level->reset();
    return {};
  }
  std::uint32_t bits = 0;
  bool known = false;
  for (const std::string& text : texts) {
    if (text == "OFF" && texts.size() > 1) return Invalid("Expect only one trace level 'OFF' is specified");
    if (text == "TIMESTAMPS") bits |= TRITONSERVER_TRACE_LEVEL_TIMESTAMPS;
    if (text == "TENSORS") bits |= TRITONSERVER_TRACE_LEVEL_TENSORS;
    known = known || bits != 0 || text == "OFF";
  }
  if (known) *level = bits;
  return {};
}

// A number as C++'s stoi reads it, which is what `tritonserver` takes: "7", " +7", "7th". `least` and `most` are what
// its message names.
template <typename T>
Status ReadNumber(const char* name, const Texts& texts, std::int64_t least, std::int64_t most,
                  std::optional<T>* number) {
  if (texts.empty()) {
    number->reset();
    return {};
  }
  if (texts.size() > 1) return Invalid(std::string("expect only 1 value for '") + name + "'");
  const std::string what = std::string("Unable to parse '") + name + "'";
  try {
    *number = static_cast<T>(std::stoi(texts.front()));
  } catch (const std::invalid_argument&) {
    return Invalid(what + ", got: " + texts.front());
  } catch (const std::out_of_range&) {
    return Invalid(what + ", value is out of range [ " + std::to_string(least) + ", " + std::to_string(most) +
                   " ], got: " + texts.front());
  }
  return {};
}

Status ReadCount(const Texts& texts, std::optional<std::int32_t>* count) {
  constexpr std::int32_t kLeast = -1;
  Status status = ReadNumber("trace_count", texts, kLeast, std::numeric_limits<std::int32_t>::max(), count);
  if (status.ok() && count->value_or(0) < kLeast) {
    return Invalid("Unable to parse 'trace_count'. Expecting value >= " + std::to_string(kLeast) +
                   ", got: " + texts.front());
  }
  return status;
}

Texts LevelTexts(std::uint32_t level) {
  Texts texts;
  if ((level & TRITONSERVER_TRACE_LEVEL_TIMESTAMPS) != 0) texts.emplace_back("TIMESTAMPS");
  if ((level & TRITONSERVER_TRACE_LEVEL_TENSORS) != 0) texts.emplace_back("TENSORS");
  if (texts.empty()) texts.emplace_back("OFF");
  return texts;
}

}  // namespace

TraceValues TraceSettings::Specified::Over(TraceValues below) const {
  return {level.value_or(below.level), rate.value_or(below.rate), count.value_or(below.count),
          log_frequency.value_or(below.log_frequency)};
}

TraceSettings::TraceSettings(const std::string& file) : file_(std::make_shared<TraceFile>(file, kMaxFileBytes)) {
  server_.sampler = std::make_shared<TraceSampler>(TraceValues(), file_);
}

TraceSettings::~TraceSettings() = default;

Status TraceSettings::Read(const TraceSettingValues& wanted, Specified* specified) {
  constexpr std::int64_t kMost = std::numeric_limits<std::uint32_t>::max();
  if (wanted.count("trace_file") != 0) {
    return {Code::kUnimplemented, "trace file location can not be updated through network protocol"};
  }
  Status status;
  for (const auto& [name, texts] : wanted) {
    if (!status.ok()) break;
    if (name == "trace_level") status = ReadLevel(texts, &specified->level);
    if (name == "trace_rate") status = ReadNumber("trace_rate", texts, 0, kMost, &specified->rate);
    if (name == "trace_count") status = ReadCount(texts, &specified->count);
    if (name == "log_frequency") status = ReadNumber("log_frequency", texts, 0, kMost, &specified->log_frequency);
  }
  return status;
}

Status TraceSettings::Update(const std::string& model, const TraceSettingValues& wanted) {
  Samplers old;  // may write files when they go, so they go outside of the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  Status status = model.empty() ? UpdateServer(wanted, &old) : UpdateModel(model, wanted, &old);
  bool sampling = server_.sampler->active();
  for (const auto& [name, setting] : models_) sampling = sampling || setting.sampler->active();
  sampling_.store(sampling, std::memory_order_relaxed);
  return status;
}

Status TraceSettings::UpdateServer(const TraceSettingValues& wanted, Samplers* old) {
  Specified specified = server_.specified;
  if (Status status = Read(wanted, &specified); !status.ok()) return status;
  Result<std::shared_ptr<TraceSampler>> sampler = MakeSampler(specified.Over(TraceValues()));
  if (!sampler.ok()) return sampler.status();
  old->push_back(std::exchange(server_.sampler, std::move(sampler).value()));
  server_.specified = specified;
  // Models that have some of their setting from the server follow it.
  for (auto& [name, setting] : models_) {
    if (setting.specified.everything()) continue;
    if (Status status = SetModel(name, setting.specified, old); !status.ok()) return status;
  }
  return {};
}

Status TraceSettings::UpdateModel(const std::string& model, const TraceSettingValues& wanted, Samplers* old) {
  const auto found = models_.find(model);
  Specified specified = found == models_.end() ? Specified() : found->second.specified;
  if (Status status = Read(wanted, &specified); !status.ok()) return status;
  if (!specified.nothing()) return SetModel(model, specified, old);
  if (found == models_.end()) return {};
  old->push_back(std::move(found->second.sampler));
  models_.erase(found);
  return {};
}

Result<std::shared_ptr<TraceSampler>> TraceSettings::MakeSampler(const TraceValues& values) const {
  const char* const invalid = "Attempting to set invalid trace setting :";
  if (values.level != 0) {  // what is turned off may be anything
    if (values.rate == 0) return Invalid(std::string(invalid) + "sample rate must be non-zero");
    if (file_->path().empty()) return Invalid(std::string(invalid) + "trace file name is not given");
    if (values.count == 0) return Invalid(invalid);
  }
  return std::make_shared<TraceSampler>(values, file_);
}

Status TraceSettings::SetModel(const std::string& model, const Specified& specified, Samplers* old) {
  Result<std::shared_ptr<TraceSampler>> sampler = MakeSampler(specified.Over(server_.sampler->values()));
  if (!sampler.ok()) return sampler.status();
  Setting& setting = models_[model];
  setting.specified = specified;
  old->push_back(std::exchange(setting.sampler, std::move(sampler).value()));
  return {};
}

const std::shared_ptr<TraceSampler>& TraceSettings::Find(std::string_view model) const {
  const auto found = models_.find(model);
  return found == models_.end() ? server_.sampler : found->second.sampler;
}

TraceSettingValues TraceSettings::Describe(const std::string& model) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const TraceValues values = Find(model)->values();
  return {{"trace_level", LevelTexts(values.level)},
          {"trace_rate", {std::to_string(values.rate)}},
          {"trace_count", {std::to_string(values.count)}},
          {"log_frequency", {std::to_string(values.log_frequency)}},
          {"trace_file", {file_->path()}},
          {"trace_mode", {"triton"}}};
}

SampledTrace TraceSettings::SampleNow(std::string_view model) {
  std::shared_ptr<TraceSampler> sampler;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    sampler = Find(model);
  }
  if (!sampler->Next()) return {};
  auto trace = std::make_shared<RequestTrace>(sampler);
  Result<triton::TraceHandle> handle = triton::NewTrace(sampler->level(), trace);
  if (!handle.ok()) {
    static log::RateLimit limit{std::chrono::seconds(10)};
    log::WriteLimited(limit, log::Level::kError, "request not traced", {{"reason", handle.status().message()}});
    return {};
  }
  trace->SetId(triton::TraceView(handle.value().get()).id());
  return {std::move(trace), std::move(handle).value()};
}

}  // namespace mesh::ingress
