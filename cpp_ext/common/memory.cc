#include "common/memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

namespace mesh {
namespace {

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

// "max", and a file that is not there, mean no limit.
std::uint64_t ReadLimit(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t limit = 0;
  return file >> limit ? limit : kNoLimit;
}

// Of the group and of all above it. Inside of a container the path may be the host's, which is not mounted here: then
// the mount point itself is the container's group.
std::uint64_t LowestUpwards(const std::string& mount, std::string path, const std::string& file) {
  const std::string name = "/" + file;
  std::uint64_t lowest = ReadLimit(mount + name);
  while (path.size() > 1) {
    std::string group = mount;
    lowest = std::min(lowest, ReadLimit(group.append(path).append(name)));
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  return lowest;
}

bool Lists(std::string controllers, const std::string& wanted) {
  controllers = "," + controllers + ",";
  return controllers.find("," + wanted + ",") != std::string::npos;
}

}  // namespace

std::uint64_t CgroupMemoryLimit(const std::string& membership, const std::string& root) {
  std::uint64_t lowest = kNoLimit;
  std::istringstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // "4:memory:/path" in version 1, "0::/path" in version 2
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) lowest = std::min(lowest, LowestUpwards(root, path, "memory.max"));
    if (Lists(controllers, "memory")) {
      lowest = std::min(lowest, LowestUpwards(root + "/memory", path, "memory.limit_in_bytes"));
    }
  }
  return lowest;
}

std::uint64_t MemoryLimitBytes() {
  const auto pages = static_cast<std::uint64_t>(std::max(sysconf(_SC_PHYS_PAGES), 1L));
  const auto page = static_cast<std::uint64_t>(std::max(sysconf(_SC_PAGESIZE), 1L));
  std::ostringstream membership;
  membership << std::ifstream("/proc/self/cgroup").rdbuf();
  return std::min(pages * page, CgroupMemoryLimit(membership.str(), "/sys/fs/cgroup"));
}

}  // namespace mesh
