// A replica without Ray: `mesh_replica CONFIG.json`, where the file holds a ReplicaConfig in canonical JSON.
//
// Prints its report, one line of JSON, at every change of state. SIGTERM and SIGINT drain it; a second one ends it at
// once. Exits with 0 after a drain and with 1 when it failed.
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <string>

#include "common/file.h"
#include "deployment/replica.h"

namespace {

using mesh::Result;
using mesh::deployment::Replica;
using mesh::deployment::ReplicaConfig;
using mesh::deployment::ReplicaState;

Result<ReplicaConfig> ReadConfig(const std::string& path) {
  const Result<std::string> text = mesh::ReadFile(path);
  if (!text.ok()) return text.status();
  return mesh::deployment::ParseReplicaConfig(text.value());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: mesh_replica CONFIG.json\n");
    return 2;
  }
  sigset_t signals;
  sigemptyset(&signals);
  for (const int wanted : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals, wanted);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread is made: they inherit it
  signal(SIGPIPE, SIG_IGN);
  const Result<ReplicaConfig> config = ReadConfig(argv[1]);
  const auto drain_timeout = config.ok() ? config.value().drain_timeout : std::chrono::milliseconds(0);
  std::atomic<ReplicaState> state{ReplicaState::kPreparing};
  Replica* reporter = nullptr;
  Replica replica(config, [&](ReplicaState entered) {
    std::printf("%s\n", reporter->Report().c_str());
    std::fflush(stdout);
    state.store(entered);
    kill(getpid(), SIGUSR1);  // wakes the loop below
  });
  reporter = &replica;
  replica.Start();
  bool failed = false;
  bool draining = false;
  for (int received = 0; state.load() != ReplicaState::kDrained;) {
    sigwait(&signals, &received);
    if (received == SIGTERM || received == SIGINT) {
      replica.Drain(draining ? std::chrono::milliseconds(0) : drain_timeout);
      draining = true;
    }
    if (state.load() == ReplicaState::kFailed && !failed) {
      failed = true;
      replica.Drain(std::chrono::milliseconds(0));
    }
  }
  replica.Stop();
  return failed ? 1 : 0;
}
