#include "ingress/log_settings.h"

#include <array>

#include "triton/handles.h"
#include "triton/library.h"

namespace mesh::ingress {
namespace {

const char* const kIso8601 = "ISO8601";

// In the order in which they are checked.
constexpr std::array<const char*, 6> kNames{"log_file",  "log_info",          "log_warning",
                                            "log_error", "log_verbose_level", "log_format"};

const char* TypeName(const LogSettingValue& value) {
  if (std::holds_alternative<bool>(value)) return "boolean";
  if (std::holds_alternative<std::uint32_t>(value)) return "int32";
  return "string";
}

// `current` tells which type the setting has.
Status Check(const std::string& name, const LogSettingValue& wanted, const LogSettingValue& current) {
  if (name == "log_file") {
    return {Code::kUnimplemented, "log file location can not be updated through network protocol"};
  }
  if (wanted.index() != current.index()) {
    return {Code::kInvalidArgument, std::string("expect ") + TypeName(current) + " for '" + name + "'"};
  }
  if (name != "log_format") return {};
  const auto& format = std::get<std::string>(wanted);
  if (format == kIso8601 || format == "default") return {};
  return {Code::kInvalidArgument, "invalid argument for log_format, got: " + format};
}

// Triton's log is one per process, so these functions need no options to change it.
Status Apply(const std::string& name, const LogSettingValue& value) {
  const triton::Api& api = triton::GetApi();
  const auto on = [&value] { return std::get<bool>(value); };
  if (name == "log_info") return triton::ToStatus(api.ServerOptionsSetLogInfo(nullptr, on()));
  if (name == "log_warning") return triton::ToStatus(api.ServerOptionsSetLogWarn(nullptr, on()));
  if (name == "log_error") return triton::ToStatus(api.ServerOptionsSetLogError(nullptr, on()));
  if (name == "log_verbose_level") {
    const auto level = static_cast<int>(std::get<std::uint32_t>(value));
    return triton::ToStatus(api.ServerOptionsSetLogVerbose(nullptr, level));
  }
  const bool iso = std::get<std::string>(value) == kIso8601;
  return triton::ToStatus(
      api.ServerOptionsSetLogFormat(nullptr, iso ? TRITONSERVER_LOG_ISO8601 : TRITONSERVER_LOG_DEFAULT));
}

}  // namespace

LogSettings::LogSettings(const triton::ServerOptions& options)
    : values_{{"log_file", options.log_file},
              {"log_info", options.log_info},
              {"log_warning", options.log_warnings},
              {"log_error", options.log_errors},
              {"log_verbose_level", static_cast<std::uint32_t>(options.log_verbosity)},
              {"log_format", std::string(kIso8601)}} {}

Status LogSettings::Update(const LogSettingValues& wanted) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const char* name : kNames) {
    const auto found = wanted.find(name);
    if (found == wanted.end()) continue;
    if (Status status = Check(name, found->second, values_[name]); !status.ok()) return status;
  }
  for (const char* name : kNames) {
    const auto found = wanted.find(name);
    if (found == wanted.end()) continue;
    if (Status status = Apply(name, found->second); !status.ok()) return status;
    values_[name] = found->second;
  }
  return {};
}

LogSettingValues LogSettings::Describe() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return values_;
}

}  // namespace mesh::ingress
