// The ingress over an embedded Triton as a program of its own, for tests and benchmarks.
//
// `--help` prints the flags with what they are by default. Prints one line of JSON when it serves:
// {"address":...,"metrics":...,"failed":{"<model>":"<reason>"}}. SIGUSR1 sets draining; SIGTERM and SIGINT drain, stop
// and exit with 0.
#include <pthread.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "common/metrics.h"
#include "http/metrics_page.h"
#include "ingress/rest_service.h"
#include "ingress/service.h"
#include "rpc/server.h"
#include "rpc/server_metrics.h"
#include "triton/server.h"

namespace {

using mesh::Result;
using mesh::Status;

constexpr std::chrono::seconds kDrainLimit{30};

using Flags = std::map<std::string, std::string>;

[[noreturn]] void Help(const Flags& flags) {
  for (const auto& [name, usual] : flags) std::printf("--%s=%s\n", name.c_str(), usual.c_str());
  std::printf("--model=NAME (each once; none: all of the repository)\n");
  std::exit(0);
}

// --name=value, each at most once except --model.
Flags ParseFlags(int argc, char** argv, std::vector<std::string>* models) {
  Flags flags{{"library", ""},           {"repository", ""},    {"backends", ""},     {"port", "0"},
              {"event-loops", "1"},      {"host", "127.0.0.1"}, {"log-verbose", "0"}, {"max-message-bytes", "0"},
              {"model-control", "none"}, {"trace-file", ""},    {"cert", ""},         {"key", ""},
              {"max-requests", "0"},     {"cache-bytes", "0"},  {"caches", ""},       {"rate-limiter", "none"},
              {"busy-poll-us", "0"}};
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    const std::size_t equals = text.find('=');
    const std::string name = text.substr(0, equals).substr(text.rfind("--", 0) == 0 ? 2 : 0);
    const std::string value = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (name == "help") Help(flags);
    if (name == "model") {
      models->push_back(value);
    } else if (flags.count(name) != 0) {
      flags[name] = value;
    } else {
      std::fprintf(stderr, "unknown flag %s\n", text.c_str());
      std::exit(2);
    }
  }
  return flags;
}

int Fail(const Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}

// "name:count" or "name:count:device", separated by commas.
std::vector<mesh::triton::RateLimiterResource> Resources(const std::string& text) {
  std::vector<mesh::triton::RateLimiterResource> resources;
  std::stringstream list(text);
  for (std::string entry; std::getline(list, entry, ',');) {
    std::stringstream parts(entry);
    std::string name, count, device;
    std::getline(std::getline(std::getline(parts, name, ':'), count, ':'), device);
    resources.push_back({name, std::stoul(count), device.empty() ? -1 : std::stoi(device)});
  }
  return resources;
}

mesh::triton::ServerOptions TritonOptions(const Flags& flags, std::vector<std::string> models) {
  mesh::triton::ServerOptions options;
  options.library = flags.at("library");
  options.repository = flags.at("repository");
  options.backend_directory = flags.at("backends");
  options.models = std::move(models);
  options.response_cache_bytes = static_cast<std::uint64_t>(std::atoll(flags.at("cache-bytes").c_str()));
  options.cache_directory = flags.at("caches");
  if (flags.at("rate-limiter") != "none") options.rate_limiter = Resources(flags.at("rate-limiter"));
  options.log_verbosity = std::atoi(flags.at("log-verbose").c_str());
  options.log_info = options.log_verbosity > 0;
  return options;
}

mesh::ingress::ServiceOptions ServiceOptions(const Flags& flags) {
  mesh::ingress::ServiceOptions options;
  if (flags.at("model-control") == "explicit") options.model_control = mesh::ingress::ModelControl::kExplicit;
  options.trace_file = flags.at("trace-file");
  options.max_requests = static_cast<std::uint64_t>(std::atoll(flags.at("max-requests").c_str()));
  return options;
}

mesh::rpc::ServerOptions RpcOptions(const Flags& flags) {
  mesh::rpc::ServerOptions options;
  options.host = flags.at("host");
  options.port = std::atoi(flags.at("port").c_str());
  options.event_loops = std::atoi(flags.at("event-loops").c_str());
  options.busy_poll = std::chrono::microseconds(std::atoll(flags.at("busy-poll-us").c_str()));
  if (const std::int64_t limit = std::atoll(flags.at("max-message-bytes").c_str()); limit > 0) {
    options.max_message_bytes = static_cast<std::size_t>(limit);
  }
  if (!flags.at("cert").empty()) options.tls = mesh::rpc::TlsOptions{flags.at("cert"), flags.at("key"), ""};
  return options;
}

void Announce(const mesh::triton::Server& triton, const mesh::rpc::Server& server, const mesh::rpc::Server& metrics) {
  nlohmann::json failed = nlohmann::json::object();
  for (const mesh::triton::ModelLoad& load : triton.loads()) {
    if (!load.status.ok()) failed[load.name] = load.status.ToString();
  }
  const nlohmann::json line{{"address", server.address()}, {"metrics", metrics.address()}, {"failed", failed}};
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

// Waits for the end; sets draining when asked to.
void WaitForSignals(const sigset_t& signals, mesh::ingress::KServeService* service) {
  int received = 0;
  while (sigwait(&signals, &received) == 0 && received == SIGUSR1) service->SetDraining();
}

int Serve(const Flags& flags, std::vector<std::string> models, const sigset_t& signals) {
  Result<std::unique_ptr<mesh::triton::Server>> triton =
      mesh::triton::Server::Start(TritonOptions(flags, std::move(models)));
  if (!triton.ok()) return Fail(triton.status());
  mesh::triton::Server& engine = *triton.value();
  mesh::metrics::Registry registry;
  mesh::ingress::KServeService service(engine, registry, ServiceOptions(flags));
  mesh::rpc::Server server(RpcOptions(flags));
  service.Register(server);
  const auto metrics_text = [&]() -> Result<std::string> {
    Result<std::string> text = engine.Metrics();
    if (!text.ok()) return text;
    return text.value() + registry.Text();
  };
  mesh::ingress::RestService rest(service, metrics_text);
  rest.Register(server);
  if (Status status = server.Start(); !status.ok()) return Fail(status);
  mesh::rpc::ServerMetrics rpc_metrics(registry, server);
  const std::unique_ptr<mesh::rpc::Server> metrics = mesh::http::NewMetricsServer("127.0.0.1", metrics_text);
  if (Status status = metrics->Start(); !status.ok()) return Fail(status);
  Announce(engine, server, *metrics);
  WaitForSignals(signals, &service);
  service.SetDraining();
  server.Drain(kDrainLimit);
  metrics->Stop();
  server.Stop();
  Status stopped = engine.Stop();
  return stopped.ok() ? 0 : Fail(stopped);
}

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): a test program may end so
int main(int argc, char** argv) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread is made
  std::vector<std::string> models;
  const Flags flags = ParseFlags(argc, argv, &models);
  return Serve(flags, std::move(models), signals);
}
