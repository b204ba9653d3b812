#include "proxy/proxy_config.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/host.h"
#include "common/json.h"
#include "rpc/client_address.h"

namespace mesh::proxy {
namespace {

constexpr std::size_t kDefaultMessageBytes = (1UL << 31) - 1;
constexpr double kDefaultHoldS = 30.0;
constexpr double kMaxHoldS = 24 * 3600.0;

void ReadPolicy(json::Fields& in, ProxyConfig* config) {
  const nlohmann::json object = in.Nested("policy");
  Result<routing::Policy> policy = routing::ParsePolicy(object.is_null() ? nlohmann::json::object() : object);
  if (policy.ok()) {
    config->policy = std::move(policy).value();
  } else {
    in.Note({Code::kInvalidArgument, "field 'policy': " + policy.status().message()});
  }
}

void ReadApplication(json::Fields& in, ProxyConfig* config) {
  config->edge = in.Flag("edge");
  if (config->edge) {
    config->application.name_space = in.Text("namespace").empty() ? "" : registry::ReadName(in, "namespace");
    for (const char* field : {"application", "deployment"}) {
      if (!in.Text(field).empty())
        in.Note({Code::kInvalidArgument, std::string("field '") + field + "' is not for an edge"});
    }
    return;
  }
  config->application = {registry::ReadName(in, "namespace"), registry::ReadName(in, "application")};
  config->deployment = registry::ReadName(in, "deployment");
}

void ReadUpstream(json::Fields& in, ProxyConfig* config) {
  config->endpoints = in.Texts("endpoints");
  for (const std::string& address : config->endpoints) {
    if (const auto parsed = rpc::ParseHostPort(address); !parsed.ok()) {
      in.Note({Code::kInvalidArgument, "field 'endpoints': " + parsed.status().message()});
    }
  }
  const double hold_s = in.Number("holdS");
  if (!(hold_s >= 0 && hold_s <= kMaxHoldS)) {
    in.Note({Code::kInvalidArgument, "field 'holdS' must be between 0 and 86400"});
  }
  config->hold_s = hold_s == 0 ? kDefaultHoldS : hold_s;
  config->endpoint_tls = registry::ReadTls(in, "endpointTls");
  config->max_message_bytes = static_cast<std::size_t>(std::max<std::int64_t>(in.Int("maxMessageBytes"), 0));
  if (config->max_message_bytes == 0) config->max_message_bytes = kDefaultMessageBytes;
}

}  // namespace

Result<ProxyConfig> ParseProxyConfig(std::string_view text, const std::string& node_address) {
  const Result<nlohmann::json> parsed = json::Parse(text, "the proxy's configuration");
  if (!parsed.ok()) return Status(Code::kInvalidArgument, parsed.status().message());
  json::Fields in(parsed.value());
  ProxyConfig config;
  config.id = registry::ReadName(in, "id");
  ReadApplication(in, &config);
  config.cluster = in.Text("cluster");
  config.generation = in.Int("generation");
  config.revision = in.Int("revision");
  config.labels = in.Map("labels");
  config.etcd = registry::ReadEtcd(in, static_cast<int>(in.Int("leaseTtlS")));
  ReadPolicy(in, &config);
  ReadUpstream(in, &config);
  config.busy_poll = registry::ReadBusyPoll(in);
  config.listening = registry::ReadListening(in, node_address);
  config.serving_tls = registry::ReadTls(in, "servingTls");
  config.drain_timeout = registry::ReadDrainTimeout(in);
  config.log = registry::ReadLog(in, {{"namespace", config.application.name_space},
                                      {"application", config.application.name},
                                      {"proxy", config.id},
                                      {"generation", std::to_string(config.generation)}});
  if (!in.status().ok()) return in.status();
  if (config.edge && !config.endpoints.empty()) {
    return Status(Code::kInvalidArgument, "field 'endpoints' is not for an edge: it follows etcd");
  }
  if (config.etcd.endpoints.empty() && config.endpoints.empty()) {
    return Status(Code::kInvalidArgument, "one of the fields 'etcd.endpoints' and 'endpoints' is needed");
  }
  return config;
}

std::string ProxyEndpointKey(const ProxyConfig& config) {
  return EndpointPrefix(config.application, "proxy") + config.deployment + '/' + config.id;
}

std::string ProxyEndpointJson(const ProxyConfig& config, const std::string& address, const std::string& metrics_address,
                              const std::string& state) {
  return json::Dump({{"id", config.id},
                     {"address", address},
                     {"protocol", "kserve-grpc"},
                     {"role", "proxy"},
                     {"namespace", config.application.name_space},
                     {"application", config.application.name},
                     {"deployment", config.deployment},
                     {"cluster", config.cluster},
                     {"node", HostName()},
                     {"labels", config.labels},
                     {"revision", std::to_string(config.revision)},
                     {"generation", std::to_string(config.generation)},
                     {"state", state},
                     {"tls", config.serving_tls.has_value()},
                     {"pid", std::to_string(ProcessId())},
                     {"metricsAddress", metrics_address}});
}

}  // namespace mesh::proxy
