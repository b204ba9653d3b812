// Triton's log, which all of this process shares: what it writes, and changing that while it runs.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <variant>

#include "common/status.h"
#include "triton/options.h"

namespace mesh::ingress {

// Nothing (a value of no type that is known), or of the type that its setting wants.
using LogSettingValue = std::variant<std::monostate, bool, std::uint32_t, std::string>;
// By name: "log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format". The same in every
// form of the protocol.
using LogSettingValues = std::map<std::string, LogSettingValue>;

// Thread-safe.
class LogSettings {
 public:
  // `options`: what Triton was started with.
  explicit LogSettings(const triton::ServerOptions& options);

  // Changes what `wanted` names; settings that nobody knows are left out. INVALID_ARGUMENT names the wrong one, and
  // then nothing changes; the file is fixed (UNIMPLEMENTED).
  Status Update(const LogSettingValues& wanted);
  // All six, as they stand.
  [[nodiscard]] LogSettingValues Describe() const;

 private:
  mutable std::mutex mutex_;
  LogSettingValues values_;  // guarded by mutex_
};

}  // namespace mesh::ingress
