// How to reach etcd.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "rpc/client.h"

namespace mesh::registry {

struct Options {
  std::vector<std::string> endpoints;               // host:port
  std::optional<rpc::TlsOptions> tls;               // absent: plaintext
  std::string user;                                 // empty: no authentication
  std::string password_file;                        // read whenever a token is asked for; one line
  int ttl_s = 5;                                    // of leases
  std::chrono::milliseconds request_timeout{2000};  // of one request to one endpoint
  std::chrono::milliseconds max_backoff{2000};      // between attempts while etcd does not answer
};

}  // namespace mesh::registry
