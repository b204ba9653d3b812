// What a proxy is told: ProxyConfig of proto/records.proto, read from its canonical JSON, with the defaults filled in.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/log.h"
#include "common/status.h"
#include "proxy/endpoint.h"
#include "registry/config_fields.h"
#include "registry/options.h"
#include "routing/policy.h"
#include "rpc/server.h"

namespace mesh::proxy {

struct ProxyConfig {
  std::string id;
  Application application;
  bool edge = false;  // for all applications, or those of a namespace: `application` has no name
  std::string deployment;
  std::string cluster;
  std::int64_t generation = 0;
  std::int64_t revision = 0;
  std::map<std::string, std::string> labels;
  registry::Options etcd;              // without endpoints the proxy neither follows nor registers itself
  std::vector<std::string> endpoints;  // not empty: these are asked, not those in etcd
  routing::Policy policy;
  double hold_s = 30.0;
  std::size_t max_message_bytes = 0;
  std::chrono::microseconds busy_poll{0};
  std::optional<rpc::TlsOptions> endpoint_tls;
  registry::Listening listening;
  std::optional<rpc::TlsOptions> serving_tls;
  std::chrono::milliseconds drain_timeout{30000};
  log::Options log;
};

// INVALID_ARGUMENT names the field that is wrong or missing. `node_address` is what others reach this node by.
Result<ProxyConfig> ParseProxyConfig(std::string_view text, const std::string& node_address = "");

// What stands in discovery of it, and where.
std::string ProxyEndpointKey(const ProxyConfig& config);
std::string ProxyEndpointJson(const ProxyConfig& config, const std::string& address, const std::string& metrics_address,
                              const std::string& state);

}  // namespace mesh::proxy
