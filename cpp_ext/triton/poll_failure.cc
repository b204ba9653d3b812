#include "triton/poll_failure.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "triton/library.h"
#include "triton/server.h"

namespace mesh::triton {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kShownNames = 10;

std::vector<std::string> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    names.push_back(at->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string Listed(const std::vector<std::string>& names) {
  if (names.empty()) return "nothing";
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kShownNames); ++i) text += (i == 0 ? "" : ", ") + names[i];
  return names.size() > kShownNames ? text + " ..." : text;
}

// Triton takes folders whose names are numbers from 1 on.
bool IsVersion(const std::string& name) {
  return !name.empty() && name.find_first_not_of("0123456789") == std::string::npos &&
         name.find_first_not_of('0') != std::string::npos;
}

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

std::string FolderProblem(const std::string& repository, const std::string& model) {
  const std::string folder = (fs::absolute(repository) / model).string();
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    return "there is no folder '" + folder + "'; the repository holds: " + Listed(NamesIn(repository));
  }
  const std::vector<std::string> names = NamesIn(folder);
  const bool has_version = std::any_of(names.begin(), names.end(), [&folder, &error](const std::string& name) {
    return IsVersion(name) && fs::is_directory(fs::path(folder) / name, error);
  });
  if (has_version) return "";
  return "there is no version folder such as '" + folder + "/1'; the model's folder holds: " + Listed(names);
}

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
