#include "triton/poll_failure.h"

#include <sys/mman.h>
#include <unistd.h>

#include "triton/library.h"
#include "triton/server.h"

namespace mesh::triton {
namespace {

// Leads Triton's log into memory for as long as it lives. The log is one per process: nothing else should start
// meanwhile.
class CapturedLog {
 public:
  explicit CapturedLog(const ServerOptions& options) : options_(options), fd_(memfd_create("triton-log", MFD_CLOEXEC)) {
    if (fd_ >= 0) Direct(true, "/proc/self/fd/" + std::to_string(fd_));
  }
  ~CapturedLog() {
    if (fd_ < 0) return;
    Direct(options_.log_errors, options_.log_file);
    close(fd_);
  }
  CapturedLog(const CapturedLog&) = delete;
  CapturedLog& operator=(const CapturedLog&) = delete;

  [[nodiscard]] std::string Text() const {
    std::string text;
    char buffer[4096];
    for (off_t at = 0;; at = static_cast<off_t>(text.size())) {
      const ssize_t got = fd_ < 0 ? 0 : pread(fd_, buffer, sizeof(buffer), at);
      if (got <= 0) return text;
      text.append(buffer, static_cast<std::size_t>(got));
    }
  }

 private:
  // These setters act on the process at once; the options object is only their form.
  static void Direct(bool errors, const std::string& file) {
    const Api& api = GetApi();
    TRITONSERVER_ServerOptions* raw = nullptr;
    if (!ToStatus(api.ServerOptionsNew(&raw)).ok()) return;
    const ServerOptionsHandle form(raw);
    static_cast<void>(ToStatus(api.ServerOptionsSetLogError(raw, errors)));
    static_cast<void>(ToStatus(api.ServerOptionsSetLogFile(raw, file.c_str())));
  }

  const ServerOptions& options_;
  int fd_;
};

}  // namespace

bool IsPollFailure(const Status& status) {
  return status.message().find("failed to poll from model repository") != std::string::npos;
}

std::string PollFailure(Server* server, const ServerOptions& options, const std::string& model) {
  const CapturedLog log(options);
  static_cast<void>(server->LoadModel(model));  // the same failure; what counts is what it writes
  const std::string text = log.Text();
  const std::string mark = "Poll failed for model directory '" + model + "': ";
  std::string::size_type begin = text.find(mark);
  if (begin == std::string::npos) return "";
  begin += mark.size();
  std::string reason = text.substr(begin, text.find('\n', begin) - begin);
  while (!reason.empty() && (reason.back() == '"' || reason.back() == ' ')) reason.pop_back();
  return reason;
}

}  // namespace mesh::triton
