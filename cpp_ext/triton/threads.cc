#include "triton/threads.h"

#include <pthread.h>

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "common/file.h"

namespace mesh::triton {
namespace {

namespace fs = std::filesystem;

// Calls `visit` with the id of each thread of the process.
template <typename Visit>
void EachThread(Visit visit) {
  std::error_code error;
  for (fs::directory_iterator at("/proc/self/task", error), end; !error && at != end; at.increment(error)) {
    visit(at->path().filename().string());
  }
}

// Its state (proc(5): R runs or would like to, S sleeps), where it has the name; none where it has ended.
std::optional<char> StateOf(const std::string& id, const std::string& name) {
  const Result<std::string> stat = ReadFile("/proc/self/task/" + id + "/stat");
  if (!stat.ok()) return std::nullopt;
  const std::string known = " (" + name + ") ";  // "ID (NAME) STATE ..."
  const std::size_t at = stat.value().find(known);
  if (at != id.size() || at + known.size() >= stat.value().size()) return std::nullopt;
  return stat.value()[at + known.size()];
}

}  // namespace

ThreadName::ThreadName(const char* name) {
  pthread_getname_np(pthread_self(), before_.data(), before_.size());
  pthread_setname_np(pthread_self(), name);
}

ThreadName::~ThreadName() { pthread_setname_np(pthread_self(), before_.data()); }

std::size_t ThreadsNamed(const std::string& name) {
  std::size_t count = 0;
  EachThread([&](const std::string& id) { count += StateOf(id, name).has_value() ? 1 : 0; });
  return count;
}

SleepWatch::SleepWatch(std::string name) : name_(std::move(name)) {
  EachThread([this](const std::string& id) {
    if (StateOf(id, name_).has_value()) awake_.insert(id);
  });
}

bool SleepWatch::Look() {
  for (auto at = awake_.begin(); at != awake_.end();) {
    at = StateOf(*at, name_).value_or('S') == 'S' ? awake_.erase(at) : std::next(at);
  }
  return awake_.empty();
}

}  // namespace mesh::triton
