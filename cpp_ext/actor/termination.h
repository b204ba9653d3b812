// SIGTERM in a process whose main thread belongs to somebody else.
#pragma once

#include <functional>

#include "common/status.h"

namespace mesh::actor {

// From now on SIGTERM calls `on_signal` on a thread of its own, each time with how often it has come (from 1 on),
// instead of what the process did with it before. Once per process; the thread lives as long as the process.
Status WatchTermination(std::function<void(int count)> on_signal);

// Ends the process as SIGTERM ends one that does not care about it, so that its parent sees a signal.
void EndByTermination();

}  // namespace mesh::actor
