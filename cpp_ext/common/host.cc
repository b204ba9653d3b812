#include "common/host.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <memory>

namespace mesh {
namespace {

double CountOpenFiles() {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/fd"), [](DIR* open) { return closedir(open); });
  if (folder == nullptr) return 0;
  double count = -3;  // ".", ".." and the folder itself
  while (readdir(folder.get()) != nullptr) ++count;
  return count;
}

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

}  // namespace

std::string HostName() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

std::string CommandLineValue(const std::string& name) {
  std::ifstream arguments("/proc/self/cmdline");
  const std::string start = "--" + name + '=';
  for (std::string argument; std::getline(arguments, argument, '\0');) {
    if (argument.compare(0, start.size(), start) == 0) return argument.substr(start.size());
  }
  return "";
}

std::int64_t ProcessId() { return getpid(); }

ProcessUsage ReadProcessUsage() {
  ProcessUsage usage;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    double value = 0;
    if (std::sscanf(line.c_str(), "VmRSS: %lf kB", &value) == 1) usage.resident_bytes = value * 1024;
    if (std::sscanf(line.c_str(), "Threads: %lf", &value) == 1) usage.threads = value;
  }
  rusage times{};
  if (getrusage(RUSAGE_SELF, &times) == 0) usage.cpu_s = Seconds(times.ru_utime) + Seconds(times.ru_stime);
  usage.open_files = CountOpenFiles();
  return usage;
}

void AddProcessMetrics(metrics::Registry& registry) {
  registry.AddGauge("process_resident_memory_bytes", "Resident memory in bytes", {},
                    [] { return ReadProcessUsage().resident_bytes; });
  registry.AddCounter("process_cpu_seconds_total", "User and system CPU time in seconds", {},
                      [] { return ReadProcessUsage().cpu_s; });
  registry.AddGauge("process_open_fds", "Open file descriptors", {}, [] { return ReadProcessUsage().open_files; });
  registry.AddGauge("process_threads", "Threads", {}, [] { return ReadProcessUsage().threads; });
}

}  // namespace mesh
