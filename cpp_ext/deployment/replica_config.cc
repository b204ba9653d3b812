#include "deployment/replica_config.h"

#include <algorithm>
#include <thread>

#include "common/json.h"
#include "registry/config_fields.h"

namespace mesh::deployment {
namespace {

using nlohmann::json;

constexpr std::size_t kDefaultMessageBytes = (1UL << 31) - 1;
constexpr int kMaxEventLoops = 64;
constexpr std::uint64_t kDefaultRequests = 10'000;
constexpr int kDefaultThreads = 8;
constexpr int kMaxThreads = 1024;

ingress::ModelControl ReadModelControl(mesh::json::Fields& in) {
  const std::string mode = in.Text("modelControl");
  if (mode == "explicit") return ingress::ModelControl::kExplicit;
  if (!mode.empty() && mode != "none") {
    in.Note({Code::kInvalidArgument, "field 'modelControl' must be 'none' or 'explicit', not '" + mode + "'"});
  }
  return ingress::ModelControl::kNone;
}

std::uint64_t ReadResponseCache(mesh::json::Fields& in) {
  if (!in.Has("responseCache")) return 0;
  const json nested = in.Nested("responseCache");
  mesh::json::Fields cache(nested);
  const std::string type = cache.Text("type");
  const std::int64_t bytes = cache.Int("sizeBytes");
  in.Note(cache.status());
  if (type != "local") {
    in.Note({Code::kInvalidArgument, "field 'responseCache.type' must be 'local', not '" + type + "'"});
  } else if (bytes <= 0) {
    in.Note({Code::kInvalidArgument, "field 'responseCache.sizeBytes' must be more than 0"});
  }
  return static_cast<std::uint64_t>(std::max<std::int64_t>(bytes, 0));
}

triton::RateLimiterResource ReadResource(mesh::json::Fields& in, const json& object) {
  mesh::json::Fields fields(object);
  triton::RateLimiterResource resource;
  resource.name = fields.Text("name");
  const std::int64_t count = fields.Int("count");
  if (fields.Has("device")) resource.device = static_cast<int>(fields.Int("device"));
  in.Note(fields.status());
  if (resource.name.empty() || count <= 0 || resource.device < -1) {
    in.Note({Code::kInvalidArgument,
             "field 'rateLimiter.resources' must have names, counts of more than 0 and no "
             "negative devices"});
  }
  resource.count = static_cast<std::size_t>(std::max<std::int64_t>(count, 0));
  return resource;
}

std::optional<std::vector<triton::RateLimiterResource>> ReadRateLimiter(mesh::json::Fields& in) {
  if (!in.Has("rateLimiter")) return std::nullopt;
  const json limiter = in.Nested("rateLimiter");
  mesh::json::Fields fields(limiter);
  const std::string mode = fields.Text("mode");
  in.Note(fields.status());
  if (!mode.empty() && mode != "execution_count") {
    in.Note({Code::kInvalidArgument, "field 'rateLimiter.mode' must be 'execution_count', not '" + mode + "'"});
  }
  std::vector<triton::RateLimiterResource> resources;
  const auto list = limiter.find("resources");
  if (list == limiter.end() || list->is_null()) return resources;
  if (!list->is_array()) in.Note({Code::kInvalidArgument, "field 'rateLimiter.resources' must be a list"});
  for (const json& item : *list) resources.push_back(ReadResource(in, item));
  return resources;
}

void ReadTriton(mesh::json::Fields& in, ReplicaConfig* config) {
  const json nested = in.Nested("triton");
  mesh::json::Fields triton(nested);
  config->models = triton.Texts("models");
  config->event_loops = static_cast<int>(triton.Int("eventLoops"));
  config->max_message_bytes = static_cast<std::size_t>(std::max<std::int64_t>(triton.Int("maxMessageBytes"), 0));
  config->busy_poll = registry::ReadBusyPoll(triton);
  config->max_requests = static_cast<std::uint64_t>(std::max<std::int64_t>(triton.Int("maxRequests"), 0));
  config->triton_log_verbosity = static_cast<int>(triton.Int("logVerbosity"));
  config->model_control = ReadModelControl(triton);
  config->response_cache_bytes = ReadResponseCache(triton);
  config->rate_limiter = ReadRateLimiter(triton);
  const json backends = triton.Nested("backends");
  for (const auto& [backend, settings] : backends.items()) {
    mesh::json::Fields fields(settings);
    config->backends[backend] = fields.Map("settings");
    triton.Note(fields.status());
  }
  in.Note(triton.status());
}

void ReadCode(mesh::json::Fields& in, ReplicaConfig* config) {
  if (!in.Has("cpp")) return;
  const json nested = in.Nested("cpp");
  mesh::json::Fields cpp(nested);
  CodeConfig code;
  code.library = cpp.Text("library");
  code.args = cpp.Text("args");
  code.config = cpp.Text("config");
  code.model = cpp.Text("model");
  code.threads = static_cast<int>(cpp.Int("threads"));
  config->max_message_bytes = static_cast<std::size_t>(std::max<std::int64_t>(cpp.Int("maxMessageBytes"), 0));
  config->busy_poll = registry::ReadBusyPoll(cpp);
  config->max_requests = static_cast<std::uint64_t>(std::max<std::int64_t>(cpp.Int("maxRequests"), 0));
  in.Note(cpp.status());
  if (code.library.empty()) in.Note({Code::kInvalidArgument, "field 'cpp.library' is missing"});
  if (code.threads < 0 || code.threads > kMaxThreads) {
    in.Note({Code::kInvalidArgument, "field 'cpp.threads' must be between 0 and " + std::to_string(kMaxThreads)});
  }
  if (code.model.empty()) code.model = config->deployment;
  if (code.threads == 0) code.threads = kDefaultThreads;
  config->code = std::move(code);
}

Status Check(const ReplicaConfig& config) {
  if (config.prepare_command.empty()) return {Code::kInvalidArgument, "field 'prepareCommand' is missing"};
  if (config.event_loops < 0 || config.event_loops > kMaxEventLoops) {
    return {Code::kInvalidArgument, "field 'triton.eventLoops' must be between 0 and 64"};
  }
  return {};
}

void FillDefaults(ReplicaConfig* config) {
  if (config->max_message_bytes == 0) config->max_message_bytes = kDefaultMessageBytes;
  if (config->max_requests == 0) config->max_requests = kDefaultRequests;
  // The loops only move bytes; Triton's own threads compute. A quarter of the cores is plenty.
  if (config->event_loops == 0) {
    config->event_loops = std::clamp(static_cast<int>(std::thread::hardware_concurrency() / 4), 1, 4);
  }
}

}  // namespace

Result<ReplicaConfig> ParseReplicaConfig(std::string_view text, const std::string& node_address) {
  const Result<json> parsed = mesh::json::Parse(text, "the replica's configuration");
  if (!parsed.ok()) return Status(Code::kInvalidArgument, parsed.status().message());
  mesh::json::Fields in(parsed.value());
  ReplicaConfig config;
  config.id = registry::ReadName(in, "id");
  config.name_space = registry::ReadName(in, "namespace");
  config.application = registry::ReadName(in, "application");
  config.deployment = registry::ReadName(in, "deployment");
  config.cluster = in.Text("cluster");
  config.generation = in.Int("generation");
  config.revision = in.Int("revision");
  config.labels = in.Map("labels");
  config.etcd = registry::ReadEtcd(in, static_cast<int>(in.Int("leaseTtlS")));
  config.prepare_command = in.Texts("prepareCommand");
  ReadTriton(in, &config);
  ReadCode(in, &config);
  const registry::Listening listening = registry::ReadListening(in, node_address);
  config.listen_host = listening.host;
  config.listen_port = listening.port;
  config.advertise_host = listening.advertise_host;
  config.serving_tls = registry::ReadTls(in, "servingTls");
  config.drain_timeout = registry::ReadDrainTimeout(in);
  config.log = registry::ReadLog(in, {{"namespace", config.name_space},
                                      {"application", config.application},
                                      {"deployment", config.deployment},
                                      {"replica", config.id},
                                      {"generation", std::to_string(config.generation)},
                                      {"revision", std::to_string(config.revision)}});
  FillDefaults(&config);
  if (!in.status().ok()) return in.status();
  const Status checked = Check(config);
  if (!checked.ok()) return checked;
  return config;
}

log::Options WithRevision(log::Options options, std::int64_t revision) {
  for (auto& [key, value] : options.base) {
    if (key == "revision") value = std::to_string(revision);
  }
  return options;
}

Result<PreparedNode> ParsePreparedNode(std::string_view text) {
  const Result<json> parsed = mesh::json::Parse(text, "the last line of the prepare command's output");
  if (!parsed.ok()) return parsed.status();
  mesh::json::Fields in(parsed.value());
  PreparedNode node;
  node.repository_path = in.Text("repositoryPath");
  node.code_path = in.Text("codePath");
  node.backend_directory = in.Text("backendDirectory");
  node.triton_library = in.Text("tritonLibrary");
  node.cache_directory = in.Text("cacheDirectory");
  node.env = in.Map("env");
  if (!in.status().ok()) return in.status();
  if (node.repository_path.empty()) {
    return Status(Code::kDataLoss, "the prepare command answered without 'repositoryPath'");
  }
  return node;
}

std::string EndpointKey(const ReplicaConfig& config) {
  return "/mesh/v1/endpoints/" + config.name_space + "/" + config.application + "/direct/" + config.deployment + "/" +
         config.id;
}

}  // namespace mesh::deployment
