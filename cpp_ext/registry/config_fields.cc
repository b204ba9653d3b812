#include "registry/config_fields.h"

#include <cmath>
#include <utility>

namespace mesh::registry {
namespace {

constexpr int kDefaultTtlS = 5;
constexpr double kDefaultDrainS = 30;
constexpr double kMaxDrainS = 24 * 3600;
constexpr std::int64_t kMaxBusyPollUs = 1000;

bool IsAnyHost(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

}  // namespace

std::optional<rpc::TlsOptions> ReadTls(json::Fields& in, const char* field) {
  if (!in.Has(field)) return std::nullopt;
  const nlohmann::json nested = in.Nested(field);
  json::Fields files(nested);
  rpc::TlsOptions tls{files.Text("cert"), files.Text("key"), files.Text("ca")};
  in.Note(files.status());
  return tls;
}

Options ReadEtcd(json::Fields& in, int ttl_s) {
  const nlohmann::json nested = in.Nested("etcd");
  json::Fields etcd(nested);
  Options options;
  options.endpoints = etcd.Texts("endpoints");
  options.tls = ReadTls(etcd, "tls");
  options.user = etcd.Text("user");
  options.password_file = etcd.Text("passwordFile");
  options.ttl_s = ttl_s == 0 ? kDefaultTtlS : ttl_s;
  in.Note(etcd.status());
  if (options.ttl_s < 1) in.Note({Code::kInvalidArgument, "field 'leaseTtlS' must be at least 1"});
  return options;
}

Listening ReadListening(json::Fields& in, const std::string& node_address) {
  Listening listening{in.Text("listenHost"), static_cast<int>(in.Int("listenPort")), in.Text("advertiseHost")};
  if (listening.host.empty()) listening.host = "127.0.0.1";
  if (listening.advertise_host.empty()) {
    listening.advertise_host = IsAnyHost(listening.host) ? node_address : listening.host;
  }
  if (listening.port < 0 || listening.port > 65535) {
    in.Note({Code::kInvalidArgument, "field 'listenPort' must be between 0 and 65535"});
  }
  if (listening.advertise_host.empty() || IsAnyHost(listening.advertise_host)) {
    in.Note({Code::kInvalidArgument, "field 'advertiseHost' is needed when 'listenHost' is '" + listening.host +
                                         "': clients cannot connect to that"});
  }
  return listening;
}

std::chrono::milliseconds ReadDrainTimeout(json::Fields& in) {
  double drain_s = in.Number("drainTimeoutS");
  if (drain_s < 0 || drain_s > kMaxDrainS || std::isnan(drain_s)) {
    in.Note({Code::kInvalidArgument, "field 'drainTimeoutS' must be between 0 and 86400"});
    drain_s = 0;
  }
  return std::chrono::milliseconds(static_cast<std::int64_t>((drain_s == 0 ? kDefaultDrainS : drain_s) * 1000));
}

std::chrono::microseconds ReadBusyPoll(json::Fields& in) {
  const std::int64_t us = in.Int("busyPollUs");
  if (us < 0 || us > kMaxBusyPollUs) {
    in.Note({Code::kInvalidArgument, "field 'busyPollUs' must be between 0 and " + std::to_string(kMaxBusyPollUs) +
                                         ": a loop that polls takes a CPU"});
  }
  return std::chrono::microseconds(us);
}

log::Options ReadLog(json::Fields& in, std::vector<std::pair<std::string, std::string>> base) {
  log::Options options;
  const Result<log::Level> level = log::ParseLevel(in.Text("logLevel"));
  if (level.ok()) options.level = level.value();
  in.Note(level.status());
  options.file = in.Text("logFile");
  options.base = std::move(base);
  return options;
}

std::string ReadName(json::Fields& in, const char* field) {
  std::string name = in.Text(field);
  if (name.empty() || name.find('/') != std::string::npos) {
    in.Note({Code::kInvalidArgument, std::string("field '") + field + "' must be a name, not '" + name + "'"});
  }
  return name;
}

}  // namespace mesh::registry
