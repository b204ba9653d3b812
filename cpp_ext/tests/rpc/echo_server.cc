// A real server for the tests of mesh_rpc: pytest drives it with grpcio clients and with hostile peers. Prints one line
// of JSON, {"port": 12345}, when it serves. Commands on standard input, one per line:
//   drain MS   -> {"drained": true}      stats -> {"calls_total": ...}
//   health SERVICE SERVING|NOT_SERVING|REMOVED ("-" is the server as a whole)
//   cancelled  -> {"cancelled": 1}        quit (also at the end of the input)
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>

#include "echo_methods.h"
#include "rpc/health.h"
#include "rpc/reflection.h"
#include "rpc/server.h"

namespace mesh::rpc {
namespace {

using Flags = std::map<std::string, std::string>;

Flags ParseFlags(int count, char** values) {
  Flags flags;
  for (int i = 1; i < count; ++i) {
    const std::string flag = values[i];
    const std::size_t equals = flag.find('=');
    if (flag.compare(0, 2, "--") != 0 || equals == std::string::npos)
      throw std::invalid_argument("not --name=value: " + flag);
    flags[flag.substr(2, equals - 2)] = flag.substr(equals + 1);
  }
  return flags;
}

// Removes the flag, so that what is left over at the end is a mistake.
template <typename T>
void Take(Flags* flags, const std::string& name, T* value) {
  const auto found = flags->find(name);
  if (found == flags->end()) return;
  *value = static_cast<T>(std::stoull(found->second));
  flags->erase(found);
}

void Take(Flags* flags, const std::string& name, std::chrono::milliseconds* value) {
  std::int64_t count = value->count();
  Take(flags, name, &count);
  *value = std::chrono::milliseconds(count);
}

void Take(Flags* flags, const std::string& name, std::string* value) {
  const auto found = flags->find(name);
  if (found == flags->end()) return;
  *value = found->second;
  flags->erase(found);
}

ResponseCompression ParseCompression(const std::string& name) {
  if (name == "gzip") return ResponseCompression::kGzip;
  if (name == "deflate") return ResponseCompression::kDeflate;
  if (name == "like_request") return ResponseCompression::kLikeRequest;
  return ResponseCompression::kNone;
}

ServerOptions ParseOptions(Flags flags) {
  ServerOptions options;
  Take(&flags, "port", &options.port);
  Take(&flags, "event_loops", &options.event_loops);
  std::int64_t busy_poll_us = 0;
  Take(&flags, "busy_poll_us", &busy_poll_us);
  options.busy_poll = std::chrono::microseconds(busy_poll_us);
  Take(&flags, "max_message_bytes", &options.max_message_bytes);
  Take(&flags, "max_decompressed_bytes", &options.max_decompressed_bytes);
  Take(&flags, "max_metadata_bytes", &options.max_metadata_bytes);
  Take(&flags, "max_concurrent_streams", &options.max_concurrent_streams);
  Take(&flags, "max_connections", &options.max_connections);
  Take(&flags, "max_pending_bytes", &options.max_pending_bytes);
  Take(&flags, "max_unsent_bytes", &options.max_unsent_bytes);
  Take(&flags, "clogged_timeout_ms", &options.clogged_timeout);
  Take(&flags, "max_receiving_bytes", &options.max_receiving_bytes);
  Take(&flags, "keepalive_interval_ms", &options.keepalive_interval);
  Take(&flags, "keepalive_timeout_ms", &options.keepalive_timeout);
  Take(&flags, "handshake_timeout_ms", &options.handshake_timeout);
  Take(&flags, "idle_message_timeout_ms", &options.idle_message_timeout);
  TlsOptions tls;
  Take(&flags, "cert", &tls.cert_file);
  Take(&flags, "key", &tls.key_file);
  Take(&flags, "ca", &tls.ca_file);
  if (!tls.cert_file.empty()) options.tls = tls;
  std::string compression;
  Take(&flags, "compression", &compression);
  options.response_compression = ParseCompression(compression);
  if (!flags.empty()) throw std::invalid_argument("unknown flag --" + flags.begin()->first);
  options.log = [](std::string_view event, std::string_view detail) {
    std::ostringstream line;  // one write, as several loops log
    line << event << " | " << detail << "\n";
    std::cerr << line.str();
  };
  return options;
}

void PrintStats(const ServerStats& stats) {
  std::cout << "{\"connections_open\": " << stats.connections_open
            << ", \"connections_total\": " << stats.connections_total << ", \"calls_total\": " << stats.calls_total
            << ", \"calls_open\": " << stats.calls_open << ", \"bytes_received\": " << stats.bytes_received
            << ", \"bytes_sent\": " << stats.bytes_sent << ", \"bytes_unsent\": " << stats.bytes_unsent
            << ", \"bytes_receiving\": " << stats.bytes_receiving << ", \"protocol_errors\": " << stats.protocol_errors
            << ", \"loop_sleeps\": " << stats.loop_sleeps << "}" << std::endl;
}

void SetHealth(HealthService* health, std::istringstream* words) {
  std::string service, status;
  *words >> service >> status;
  if (service == "-") service.clear();
  if (status == "REMOVED") {
    health->Remove(service);
  } else {
    health->SetStatus(service, status == "SERVING" ? ServingStatus::kServing : ServingStatus::kNotServing);
  }
  std::cout << "{}" << std::endl;
}

void Obey(Server* server, EchoMethods* methods, HealthService* health, const std::string& line) {
  std::istringstream words(line);
  std::string command;
  words >> command;
  if (command == "stats") {
    PrintStats(server->stats());
  } else if (command == "drain") {
    std::int64_t limit_ms = 0;
    words >> limit_ms;
    std::cout << "{\"drained\": " << (server->Drain(std::chrono::milliseconds(limit_ms)) ? "true" : "false") << "}"
              << std::endl;
  } else if (command == "cancelled") {
    std::cout << "{\"cancelled\": " << methods->cancelled() << "}" << std::endl;
  } else if (command == "health") {
    SetHealth(health, &words);
  } else {
    std::cout << "{\"error\": \"unknown command\"}" << std::endl;
  }
}

int Main(int count, char** values) {
  EchoMethods methods;
  Server server(ParseOptions(ParseFlags(count, values)));
  methods.Register(&server);
  HealthService health;
  health.Register(&server);
  auto reflection = ReflectionService::Create({OpenInferenceDescriptors()});
  if (!reflection.ok()) throw std::runtime_error(reflection.status().ToString());
  reflection.value()->Register(&server);
  const Status started = server.Start();
  if (!started.ok()) {
    std::cerr << started.ToString() << std::endl;
    return 1;
  }
  std::cout << "{\"port\": " << server.port() << ", \"pid\": " << getpid() << "}" << std::endl;
  std::string line;
  while (std::getline(std::cin, line) && line != "quit") Obey(&server, &methods, &health, line);
  server.Stop();
  methods.Join();
  return 0;
}

}  // namespace
}  // namespace mesh::rpc

int main(int count, char** values) {
  try {
    return mesh::rpc::Main(count, values);
  } catch (const std::exception& error) {
    std::cerr << "rpc_echo_server: " << error.what() << std::endl;
    return 2;
  }
}
