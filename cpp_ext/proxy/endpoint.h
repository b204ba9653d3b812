// One endpoint record of discovery, as a proxy uses it. The twin of serving/discovery/view.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace mesh::proxy {

inline constexpr char kBrokerRole[] = "broker";

struct EndpointModel {
  std::string name;
  std::vector<std::string> versions;  // empty: not said, any
};

// Whose endpoints are followed. Without a name: those of all applications, of the namespace where it is named.
struct Application {
  std::string name_space;
  std::string name;

  [[nodiscard]] bool is_one() const { return !name.empty(); }
  [[nodiscard]] std::string Full() const { return name_space + '/' + name; }
};

struct Endpoint {
  Application owner;
  std::string id;
  std::string address;  // host:port
  std::string role;
  std::string protocol;
  std::string deployment;
  std::vector<EndpointModel> models;  // empty: may offer all
  std::map<std::string, std::string> labels;
  std::int64_t revision = 0;
  std::int64_t generation = 0;
  std::uint32_t weight = 100;
  bool ready = false;  // else it drains
  bool tls = false;
  // Of a broker:
  std::int64_t pid = 0;
  std::vector<std::string> before;    // deployments whose requests it takes; empty: all
  std::vector<std::string> journals;  // those that it serves
  int per_replica = 0;                // items that a replica may hold; 0: as it measures
  bool drained = false;               // it takes no new requests
  std::vector<std::string> pulled;    // deployments to which requests are brought through it only

  // "" is any.
  [[nodiscard]] bool Offers(std::string_view model, std::string_view version) const;
};

// The prefix of the keys of the application's endpoints of that role; for all applications, of all roles.
std::string EndpointPrefix(const Application& application, std::string_view role);

// Reads the record at `key`. DATA_LOSS when it is no such record, is not what its key says, or cannot be called;
// UNIMPLEMENTED when it speaks another protocol than KServe's gRPC, or, of a broker, the brokers'.
Result<Endpoint> ParseEndpoint(const Application& application, std::string_view key, std::string_view value);

}  // namespace mesh::proxy
