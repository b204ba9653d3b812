// Addresses of servers as people write them, and sockets to them.
#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "common/status.h"

namespace mesh::rpc {

struct HostPort {
  std::string host;  // without brackets
  std::string port;
};

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

// "host:port", "1.2.3.4:80", "[::1]:80". INVALID_ARGUMENT says what is expected.
Result<HostPort> ParseHostPort(const std::string& address);
// All addresses of the host in the order in which to try them, at most eight. With `numeric_only` a name is NOT_FOUND
// instead of asking the resolver, which may block for seconds.
Result<std::vector<SocketAddress>> ResolveHost(const HostPort& target, bool numeric_only);
// A non-blocking socket that connects or has connected; the caller closes it.
Result<int> BeginConnect(const SocketAddress& address);

}  // namespace mesh::rpc
