#include "deployment/replica_update.h"

#include "common/json.h"

namespace mesh::deployment {

Result<ReplicaUpdate> ParseReplicaUpdate(std::string_view text) {
  const Result<nlohmann::json> parsed = mesh::json::Parse(text, "the replica's update");
  if (!parsed.ok()) return Status(Code::kInvalidArgument, parsed.status().message());
  mesh::json::Fields in(parsed.value());
  ReplicaUpdate update;
  update.id = in.Text("id");
  update.generation = in.Int("generation");
  update.revision = in.Int("revision");
  update.prepare_command = in.Texts("prepareCommand");
  update.models = in.Texts("models");
  update.config = in.Text("config");
  if (!in.status().ok()) return in.status();
  if (update.revision <= 0) return Status(Code::kInvalidArgument, "field 'revision' must be at least 1");
  return update;
}

}  // namespace mesh::deployment
