// How much memory this process may use.
#pragma once

#include <cstdint>
#include <string>

namespace mesh {

// The machine's memory, or the limit of this process's control group where that is lower.
std::uint64_t MemoryLimitBytes();

// The lowest limit of the control groups that `membership` (the text of /proc/self/cgroup) names, and of those above
// them, below the mount point `root`; the largest number when there is none. Reads version 1 and version 2.
std::uint64_t CgroupMemoryLimit(const std::string& membership, const std::string& root);

}  // namespace mesh
