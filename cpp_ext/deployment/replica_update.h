// The models of another revision for a replica that runs: ReplicaUpdate of proto/records.proto, from its canonical
// JSON.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace mesh::deployment {

struct ReplicaUpdate {
  std::string id;
  std::int64_t generation = 0;
  std::int64_t revision = 0;
  std::vector<std::string> prepare_command;
  std::vector<std::string> models;  // empty: every model of the repository
  std::string config;               // of the code of a deployment, which takes nothing else
};

// INVALID_ARGUMENT names the field that is wrong or missing. A prepare command is needed for models only.
Result<ReplicaUpdate> ParseReplicaUpdate(std::string_view text);

}  // namespace mesh::deployment
