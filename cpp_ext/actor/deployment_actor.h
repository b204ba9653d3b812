// The actor that Ray starts for a replica in C++. Control only: requests go to the replica's own port.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "deployment/replica.h"

namespace mesh::actor {

// Nothing here throws: Ray would turn an exception of the constructor into the actor's death, and its reason into a log
// line that nobody sees.
class DeploymentActor {
 public:
  // `config_json` is a ReplicaConfig. Returns at once; a thread of the process prepares, loads, serves and registers.
  // SIGTERM drains the replica and then ends the process (Ray itself would let it die like of a crash); a second one
  // ends it at once. The process is Ray's: the object lives as long as it.
  explicit DeploymentActor(const std::string& config_json);

  // Each answers with a ReplicaReport in canonical JSON.
  std::string Status();
  std::string Drain(double limit_s);                   // returns at once; Status follows it
  std::string Update(const std::string& update_json);  // a ReplicaUpdate; returns at once, Status follows it
  std::string Stop();  // leaves discovery and ends everything; returns when that is done

 private:
  std::string Report(const char* method, const std::string& refused = "");

  void Start(const std::string& config_json);

  std::atomic<bool> terminating_{false};
  std::unique_ptr<deployment::Replica> replica_;
  std::string broken_;  // why there is no replica
};

}  // namespace mesh::actor
