#include "proxy/endpoint.h"

#include <algorithm>
#include <limits>

#include "common/json.h"
#include "rpc/client_address.h"

namespace mesh::proxy {
namespace {

using nlohmann::json;

constexpr char kProtocol[] = "kserve-grpc";
constexpr char kDirect[] = "direct";
constexpr char kBrokerProtocol[] = "broker-grpc";
constexpr std::int64_t kMostPerReplica = 1'000'000;

Status Lost(std::string_view key, const std::string& what) { return {Code::kDataLoss, std::string(key) + ": " + what}; }

Result<std::vector<EndpointModel>> ReadModels(const json& record) {
  std::vector<EndpointModel> models;
  const auto listed = record.find("models");
  if (listed == record.end() || listed->is_null()) return models;
  if (!listed->is_array()) return Status(Code::kDataLoss, "its models are not a list");
  for (const json& entry : *listed) {
    if (!entry.is_object()) return Status(Code::kDataLoss, "a model of it is not an object");
    mesh::json::Fields in(entry);
    models.push_back({in.Text("name"), in.Texts("versions")});
    if (!in.status().ok()) return in.status();
  }
  return models;
}

std::uint32_t WeightOf(std::int64_t given) {
  if (given <= 0) return 100;
  return static_cast<std::uint32_t>(std::min<std::int64_t>(given, std::numeric_limits<std::int32_t>::max()));
}

// What must be true of a record besides its form.
Status Check(const Application& application, std::string_view key, const Endpoint& endpoint, const std::string& state) {
  if (const auto address = rpc::ParseHostPort(endpoint.address); !address.ok()) {
    return Lost(key, "its address '" + endpoint.address + "' is not host:port");
  }
  if (state != "ready" && state != "draining") {
    return Lost(key, "its state '" + state + "' is neither 'ready' nor 'draining'");
  }
  const Application& owner = endpoint.owner;
  const std::string expected = EndpointPrefix(owner, endpoint.role) + endpoint.deployment + '/' + endpoint.id;
  const bool others = application.is_one() && owner.Full() != application.Full();
  if (!owner.is_one() || others || key != expected) return Lost(key, "it says that it belongs to " + expected);
  if (!application.is_one() && endpoint.role != kDirect && endpoint.role != kBrokerRole) {
    return {Code::kUnimplemented, std::string(key) + ": a " + endpoint.role + " is not asked from the edge"};
  }
  const std::string wanted = endpoint.role == kBrokerRole ? kBrokerProtocol : kProtocol;
  if (!endpoint.protocol.empty() && endpoint.protocol != wanted) {
    return {Code::kUnimplemented, std::string(key) + ": it speaks " + endpoint.protocol + ", not " + wanted};
  }
  return {};
}

void ReadBroker(mesh::json::Fields& in, Endpoint* endpoint) {
  endpoint->pid = in.Int("pid");
  endpoint->before = in.Texts("before");
  endpoint->journals = in.Texts("journals");
  endpoint->drained = in.Flag("drained");
  endpoint->pulled = in.Texts("pulled");
  endpoint->per_replica = static_cast<int>(std::clamp<std::int64_t>(in.Int("perReplica"), 0, kMostPerReplica));
}

}  // namespace

bool Endpoint::Offers(std::string_view model, std::string_view version) const {
  if (model.empty() || models.empty()) return true;
  return std::any_of(models.begin(), models.end(), [&](const EndpointModel& offered) {
    if (offered.name != model) return false;
    return version.empty() || offered.versions.empty() ||
           std::find(offered.versions.begin(), offered.versions.end(), version) != offered.versions.end();
  });
}

std::string EndpointPrefix(const Application& application, std::string_view role) {
  std::string all = "/mesh/v1/endpoints/";
  if (application.name_space.empty()) return all;
  if (!application.is_one()) return all + application.name_space + '/';
  return all + application.Full() + '/' + std::string(role) + '/';
}

Result<Endpoint> ParseEndpoint(const Application& application, std::string_view key, std::string_view value) {
  const Result<json> parsed = mesh::json::Parse(value, key);
  if (!parsed.ok()) return parsed.status();
  const json& record = parsed.value();
  mesh::json::Fields in(record);
  Endpoint endpoint;
  endpoint.owner = {in.Text("namespace"), in.Text("application")};
  endpoint.id = in.Text("id");
  endpoint.address = in.Text("address");
  endpoint.role = in.Text("role");
  endpoint.deployment = in.Text("deployment");
  endpoint.labels = in.Map("labels");
  endpoint.revision = in.Int("revision");
  endpoint.generation = in.Int("generation");
  endpoint.weight = WeightOf(in.Int("weight"));
  endpoint.tls = in.Flag("tls");
  endpoint.protocol = in.Text("protocol");
  if (endpoint.role == kBrokerRole) ReadBroker(in, &endpoint);
  const std::string state = in.Text("state");
  endpoint.ready = state == "ready";
  if (!in.status().ok()) return Lost(key, in.status().message());
  Result<std::vector<EndpointModel>> models = ReadModels(record);
  if (!models.ok()) return Lost(key, models.status().message());
  endpoint.models = std::move(models).value();
  if (Status wrong = Check(application, key, endpoint, state); !wrong.ok()) return wrong;
  return endpoint;
}

}  // namespace mesh::proxy
