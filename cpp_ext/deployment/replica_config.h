// What a replica is told when it is made: ReplicaConfig and PreparedNode of proto/records.proto, read from their
// canonical JSON, with the defaults filled in.
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
#include "ingress/repository_control.h"
#include "registry/options.h"
#include "rpc/server.h"
#include "triton/options.h"

namespace mesh::deployment {

// The code of a C++ deployment.
struct CodeConfig {
  std::string library;  // path, in the node's folder of the code unless it is absolute
  std::string args;     // JSON objects, or empty
  std::string config;
  std::string model;  // the name that clients ask for
  int threads = 0;
};

struct ReplicaConfig {
  std::string id;
  std::string name_space;
  std::string application;
  std::string deployment;
  std::string cluster;
  std::int64_t generation = 0;
  std::int64_t revision = 0;
  std::map<std::string, std::string> labels;
  registry::Options etcd;  // without endpoints the replica does not register itself
  std::vector<std::string> prepare_command;
  std::optional<CodeConfig> code;   // absent: only Triton's models are served
  std::vector<std::string> models;  // empty: every model of the repository
  std::map<std::string, std::map<std::string, std::string>> backends;
  int event_loops = 0;
  std::size_t max_message_bytes = 0;
  std::chrono::microseconds busy_poll{0};
  std::uint64_t max_requests = 0;
  int triton_log_verbosity = 0;
  std::uint64_t response_cache_bytes = 0;  // 0: none
  std::optional<std::vector<triton::RateLimiterResource>> rate_limiter;
  ingress::ModelControl model_control = ingress::ModelControl::kNone;
  std::string listen_host;
  int listen_port = 0;
  std::string advertise_host;
  std::optional<rpc::TlsOptions> serving_tls;
  std::chrono::milliseconds drain_timeout{30000};
  log::Options log;
};

// INVALID_ARGUMENT names the field that is wrong or missing. `node_address` is what others reach this node by, where
// that is known: clients are told it when the replica listens on every address and nothing else is to be told.
Result<ReplicaConfig> ParseReplicaConfig(std::string_view text, const std::string& node_address = "");

// The same log, whose records name another revision.
log::Options WithRevision(log::Options options, std::int64_t revision);

struct PreparedNode {
  std::string repository_path;
  std::string code_path;
  std::string backend_directory;
  std::string triton_library;
  std::string cache_directory;
  std::map<std::string, std::string> env;
};

Result<PreparedNode> ParsePreparedNode(std::string_view text);

// Where its endpoint stands in etcd.
std::string EndpointKey(const ReplicaConfig& config);

}  // namespace mesh::deployment
