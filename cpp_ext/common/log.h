// One JSON object per line: {"ts":"2026-11-20T18:55:09.123Z","level":"info","msg":"lease granted",<base keys>,<keys>}.
// `msg` is constant text; whatever varies goes into keys. Thread-safe; a record is written by one write(2).
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "common/status.h"

namespace mesh::log {

enum class Level : std::uint8_t { kDebug, kInfo, kWarning, kError };

// "debug", "info", "warning", "error"; empty is info. The message of a failure lists what is allowed.
Result<Level> ParseLevel(std::string_view text);
const char* LevelName(Level level);

// One key of a record. Refers to the caller's strings, so it lives no longer than the call it is an argument of.
class Field {
 public:
  using Value = std::variant<bool, std::int64_t, std::uint64_t, double, std::string_view>;

  Field(std::string_view key, std::string_view value) : key_(key), value_(value) {}
  Field(std::string_view key, const char* value) : key_(key), value_(std::string_view(value)) {}
  Field(std::string_view key, const std::string& value) : Field(key, std::string_view(value.data(), value.size())) {}
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
  Field(std::string_view key, T value) : key_(key), value_(Widen(value)) {}

  [[nodiscard]] std::string_view key() const { return key_; }
  [[nodiscard]] const Value& value() const { return value_; }

 private:
  template <typename T>
  static Value Widen(T value) {
    if constexpr (std::is_same_v<T, bool>) {
      return value;
    } else if constexpr (std::is_floating_point_v<T>) {
      return static_cast<double>(value);
    } else if constexpr (std::is_signed_v<T>) {
      return static_cast<std::int64_t>(value);
    } else {
      return static_cast<std::uint64_t>(value);
    }
  }

  std::string_view key_;
  Value value_;
};

using Fields = std::initializer_list<Field>;

struct Options {
  Level level = Level::kInfo;
  std::string file;                                       // empty: standard error; else appended to, created if absent
  std::vector<std::pair<std::string, std::string>> base;  // in every record: namespace, application, replica ...
};

// Sets up the process's log; may be called again. On failure (the file cannot be opened) the log stays as it was.
Status Configure(const Options& options);
[[nodiscard]] bool Enabled(Level level);

void Write(Level level, std::string_view message, Fields fields = {});
inline void Debug(std::string_view message, Fields fields = {}) { Write(Level::kDebug, message, fields); }
inline void Info(std::string_view message, Fields fields = {}) { Write(Level::kInfo, message, fields); }
inline void Warning(std::string_view message, Fields fields = {}) { Write(Level::kWarning, message, fields); }
inline void Error(std::string_view message, Fields fields = {}) { Write(Level::kError, message, fields); }

// Lets one record through per interval, and up to `burst` at once after a time without any, and counts the others. One
// object per message, usually a static or a member.
class RateLimit {
 public:
  explicit RateLimit(std::chrono::steady_clock::duration interval, int burst = 1)
      : interval_(interval), allowance_(interval * (burst - 1)) {}

  // The number of records held back since the last one let through, or -1: hold this one back too.
  std::int64_t Pass(std::chrono::steady_clock::time_point now = std::chrono::steady_clock::now());

 private:
  const std::chrono::steady_clock::duration interval_;
  const std::chrono::steady_clock::duration allowance_;
  std::atomic<std::int64_t> next_{INT64_MIN};  // steady_clock ticks
  std::atomic<std::int64_t> held_{0};
};

// As Write, at most once per the limit's interval; the key "suppressed" says how many were left out before it.
void WriteLimited(RateLimit& limit, Level level, std::string_view message, Fields fields = {});

// The text of one record without its end of line. Pure; for tests and for logs that go elsewhere.
std::string Format(std::chrono::system_clock::time_point when, Level level, std::string_view message,
                   const std::vector<std::pair<std::string, std::string>>& base, const Field* fields, std::size_t count,
                   std::int64_t suppressed = 0);

}  // namespace mesh::log
