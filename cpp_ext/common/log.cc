#include "common/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

namespace mesh::log {
namespace {

// Where records go. Replaced as a whole, so that a writer never sees half of a new setup.
struct Sink {
  int fd = STDERR_FILENO;
  std::vector<std::pair<std::string, std::string>> base;

  Sink() = default;
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  ~Sink() {
    if (fd != STDERR_FILENO) close(fd);
  }
};

// Never destroyed: threads may log while the process ends.
struct State {
  std::mutex mutex;
  std::shared_ptr<const Sink> sink = std::make_shared<Sink>();  // guarded by mutex
};

State& TheState() {
  static auto* state = new State();
  return *state;
}

std::atomic<Level>& MinimumLevel() {
  static std::atomic<Level> level{Level::kInfo};
  return level;
}

// A JSON string; bytes that are not UTF-8 are replaced, because a log must take whatever a peer sent.
void AppendString(std::string& out, std::string_view text) {
  out += nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void AppendValue(std::string& out, const Field::Value& value) {
  if (const auto* text = std::get_if<std::string_view>(&value)) {
    AppendString(out, *text);
  } else if (const auto* flag = std::get_if<bool>(&value)) {
    out += *flag ? "true" : "false";
  } else if (const auto* whole = std::get_if<std::int64_t>(&value)) {
    out += std::to_string(*whole);
  } else if (const auto* natural = std::get_if<std::uint64_t>(&value)) {
    out += std::to_string(*natural);
  } else {
    const double number = std::get<double>(value);
    if (!std::isfinite(number)) {
      AppendString(out, std::to_string(number));
      return;
    }
    std::array<char, 40> digits{};
    std::snprintf(digits.data(), digits.size(), "%.9g", number);
    out += digits.data();
  }
}

void AppendTime(std::string& out, std::chrono::system_clock::time_point when) {
  const auto since_epoch = std::chrono::duration_cast<std::chrono::milliseconds>(when.time_since_epoch()).count();
  const auto seconds = static_cast<std::time_t>(since_epoch / 1000);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  std::array<char, 80> text{};
  std::snprintf(text.data(), text.size(), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", utc.tm_year + 1900, utc.tm_mon + 1,
                utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, static_cast<int>(since_epoch % 1000));
  out += text.data();
}

void WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return;  // a log that cannot be written to (closed pipe, full disk) must not take the process with it
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

void Emit(Level level, std::string_view message, Fields fields, std::int64_t suppressed) {
  State& state = TheState();
  std::shared_ptr<const Sink> sink;
  {
    const std::lock_guard<std::mutex> lock(state.mutex);
    sink = state.sink;
  }
  std::string line =
      Format(std::chrono::system_clock::now(), level, message, sink->base, fields.begin(), fields.size(), suppressed);
  line += '\n';
  WriteAll(sink->fd, line);
}

}  // namespace

Result<Level> ParseLevel(std::string_view text) {
  if (text.empty() || text == "info") return Level::kInfo;
  if (text == "debug") return Level::kDebug;
  if (text == "warning") return Level::kWarning;
  if (text == "error") return Level::kError;
  return Status(Code::kInvalidArgument,
                "log level '" + std::string(text) + "' is not known (allowed: debug, info, warning, error)");
}

const char* LevelName(Level level) {
  switch (level) {
    case Level::kDebug: return "debug";
    case Level::kInfo: return "info";
    case Level::kWarning: return "warning";
    case Level::kError: return "error";
  }
  return "info";
}

Status Configure(const Options& options) {
  auto sink = std::make_shared<Sink>();
  sink->base = options.base;
  if (!options.file.empty()) {
    const int fd = open(options.file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) {
      return {Code::kFailedPrecondition,
              "the log file '" + options.file + "' cannot be opened: " + std::string(std::strerror(errno))};
    }
    sink->fd = fd;
  }
  State& state = TheState();
  const std::lock_guard<std::mutex> lock(state.mutex);
  state.sink = std::move(sink);
  MinimumLevel().store(options.level, std::memory_order_relaxed);
  return {};
}

bool Enabled(Level level) { return level >= MinimumLevel().load(std::memory_order_relaxed); }

void Write(Level level, std::string_view message, Fields fields) {
  if (Enabled(level)) Emit(level, message, fields, 0);
}

std::int64_t RateLimit::Pass(std::chrono::steady_clock::time_point now) {
  const std::int64_t ticks = now.time_since_epoch().count();
  std::int64_t next = next_.load(std::memory_order_relaxed);
  // `next` is when the next record would be due if they came evenly; a burst runs ahead of it.
  const std::int64_t after = std::max(ticks - allowance_.count(), next) + interval_.count();
  if (ticks < next || !next_.compare_exchange_strong(next, after, std::memory_order_relaxed)) {
    held_.fetch_add(1, std::memory_order_relaxed);
    return -1;
  }
  return held_.exchange(0, std::memory_order_relaxed);
}

void WriteLimited(RateLimit& limit, Level level, std::string_view message, Fields fields) {
  if (!Enabled(level)) return;
  const std::int64_t suppressed = limit.Pass();
  if (suppressed >= 0) Emit(level, message, fields, suppressed);
}

std::string Format(std::chrono::system_clock::time_point when, Level level, std::string_view message,
                   const std::vector<std::pair<std::string, std::string>>& base, const Field* fields, std::size_t count,
                   std::int64_t suppressed) {
  std::string line = R"({"ts":")";
  AppendTime(line, when);
  line += R"(","level":")";
  line += LevelName(level);
  line += R"(","msg":)";
  AppendString(line, message);
  for (const auto& [key, value] : base) {
    line += ',';
    AppendString(line, key);
    line += ':';
    AppendString(line, value);
  }
  for (std::size_t index = 0; index < count; ++index) {
    line += ',';
    AppendString(line, fields[index].key());
    line += ':';
    AppendValue(line, fields[index].value());
  }
  if (suppressed > 0) line += R"(,"suppressed":)" + std::to_string(suppressed);
  line += '}';
  return line;
}

}  // namespace mesh::log
