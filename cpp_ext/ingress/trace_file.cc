#include "ingress/trace_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "common/log.h"

namespace mesh::ingress {
namespace {

void LogFailure(const std::string& path, int error) {
  static log::RateLimit limit{std::chrono::seconds(10)};
  log::WriteLimited(limit, log::Level::kError, "traces not written",
                    {{"file", path}, {"reason", std::strerror(error)}});
}

int Create(const std::string& path) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
  if (file < 0) LogFailure(path, errno);
  return file;
}

}  // namespace

TraceFile::TraceFile(std::string path, std::uint64_t max_bytes) : path_(std::move(path)), max_bytes_(max_bytes) {}

TraceFile::~TraceFile() {
  if (file_ < 0) return;
  Write(file_, "]");
  ::close(file_);
}

void TraceFile::Append(std::string_view traces) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!Room(traces.size())) return;
  const bool first = file_ < 0;
  if (first) file_ = Create(path_);
  if (file_ < 0) return;
  Write(file_, first ? "[" : ",");
  Write(file_, traces);
}

void TraceFile::WriteNext(std::string_view traces) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!Room(traces.size())) return;
  const int file = Create(path_ + "." + std::to_string(next_));
  if (file < 0) return;
  ++next_;
  for (const std::string_view text : {std::string_view("["), traces, std::string_view("]")}) Write(file, text);
  ::close(file);
}

bool TraceFile::Room(std::size_t bytes) {
  if (written_ + bytes <= max_bytes_) {
    written_ += bytes;
    return true;
  }
  if (!full_.exchange(true)) {
    log::Warning("traces end, their files are full", {{"file", path_}, {"bytes", written_}, {"limit", max_bytes_}});
  }
  return false;
}

void TraceFile::Write(int file, std::string_view text) const {
  while (!text.empty()) {
    const ssize_t done = ::write(file, text.data(), text.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return LogFailure(path_, errno);
    text.remove_prefix(static_cast<std::size_t>(done));
  }
}

}  // namespace mesh::ingress
