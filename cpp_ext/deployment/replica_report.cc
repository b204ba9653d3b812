#include "deployment/replica_report.h"

#include <map>
#include <nlohmann/json.hpp>

#include "common/json.h"

namespace mesh::deployment {

using nlohmann::json;

namespace {

json LoadOf(const ReplicaView& view) {
  json within = json::array();
  const std::vector<std::uint64_t>& counts = view.request_seconds.cumulative;
  for (std::size_t index = 0; index < view.request_seconds.bounds.size(); ++index) {
    within.push_back(std::to_string(counts[index]));
  }
  return {{"cpuS", view.cpu_s},
          {"requests", std::to_string(counts.empty() ? 0 : counts.back())},
          {"boundsS", view.request_seconds.bounds},
          {"within", std::move(within)},
          {"failed", std::to_string(view.failed_requests)},
          {"streams", std::to_string(view.streams)},
          {"failedStreams", std::to_string(view.failed_streams)}};
}

}  // namespace

Result<std::vector<ModelState>> ParseIndex(const std::string& index_json) {
  const json parsed = json::parse(index_json, nullptr, false);
  if (!parsed.is_array()) return Status(Code::kDataLoss, "Triton's repository index is not a list");
  std::vector<ModelState> models;
  for (const json& entry : parsed) {
    mesh::json::Fields in(entry);
    models.push_back({in.Text("name"), in.Text("version"), in.Text("state"), in.Text("reason")});
    if (!in.status().ok()) return in.status();
  }
  return models;
}

std::string ReportJson(const ReplicaView& view) {
  json models = json::array();
  for (const ModelState& model : view.models) {
    models.push_back(
        {{"name", model.name}, {"version", model.version}, {"state", model.state}, {"reason", model.reason}});
  }
  return mesh::json::Dump({{"id", view.id},
                           {"state", StateName(view.state)},
                           {"reason", view.reason},
                           {"address", view.address},
                           {"metricsAddress", view.metrics_address},
                           {"pid", std::to_string(view.pid)},
                           {"lease", std::to_string(view.lease)},
                           {"registered", view.registered},
                           {"models", std::move(models)},
                           {"inFlight", std::to_string(view.in_flight)},
                           {"revision", std::to_string(view.revision)},
                           {"updatingTo", std::to_string(view.updating_to)},
                           {"failedRevision", std::to_string(view.failed_revision)},
                           {"failedReason", view.failed_reason},
                           {"failedUpdates", std::to_string(view.failed_updates)},
                           {"refused", view.refused},
                           {"load", LoadOf(view)}});
}

std::string EndpointJson(const ReplicaConfig& config, const ReplicaView& view, const std::string& node,
                         const std::string& state) {
  std::map<std::string, std::vector<std::string>> versions;
  for (const ModelState& model : view.models) {
    if (model.state == "READY") versions[model.name].push_back(model.version);
  }
  json models = json::array();
  for (const auto& [name, served] : versions) models.push_back({{"name", name}, {"versions", served}});
  return mesh::json::Dump({{"id", config.id},
                           {"address", view.address},
                           {"protocol", "kserve-grpc"},
                           {"rest", true},
                           {"role", "direct"},
                           {"namespace", config.name_space},
                           {"application", config.application},
                           {"deployment", config.deployment},
                           {"models", std::move(models)},
                           {"cluster", config.cluster},
                           {"node", node},
                           {"labels", config.labels},
                           {"revision", std::to_string(view.revision)},
                           {"generation", std::to_string(config.generation)},
                           {"state", state},
                           {"tls", config.serving_tls.has_value()},
                           {"pid", std::to_string(view.pid)},
                           {"metricsAddress", view.metrics_address}});
}

}  // namespace mesh::deployment
