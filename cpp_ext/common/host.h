// This machine and this process.
#pragma once

#include <cstdint>
#include <string>

#include "common/metrics.h"

namespace mesh {

std::string HostName();

// The value of `--name=value` on this process's command line; empty without one.
std::string CommandLineValue(const std::string& name);

std::int64_t ProcessId();

struct ProcessUsage {
  double resident_bytes = 0;
  double cpu_s = 0;
  double open_files = 0;
  double threads = 0;
};

// Read from /proc; zero for what cannot be read.
ProcessUsage ReadProcessUsage();

// process_resident_memory_bytes and so on, under the names that Prometheus' own libraries use.
void AddProcessMetrics(metrics::Registry& registry);

}  // namespace mesh
