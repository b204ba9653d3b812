#include "rpc/client_address.h"

#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

namespace mesh::rpc {
namespace {

constexpr std::size_t kMaxAddresses = 8;

}  // namespace

Result<HostPort> ParseHostPort(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  HostPort target;
  if (colon != std::string::npos) {
    target.host = address.substr(0, colon);
    target.port = address.substr(colon + 1);
  }
  const bool bracketed = target.host.size() > 2 && target.host.front() == '[' && target.host.back() == ']';
  if (bracketed) target.host = target.host.substr(1, target.host.size() - 2);
  const bool digits = !target.port.empty() && target.port.size() <= 5 &&
                      std::all_of(target.port.begin(), target.port.end(), [](char c) { return c >= '0' && c <= '9'; });
  const bool bare_v6 = !bracketed && target.host.find(':') != std::string::npos;
  if (target.host.empty() || bare_v6 || target.host.find('/') != std::string::npos || !digits ||
      std::stoi(target.port) < 1 || std::stoi(target.port) > 65535) {
    return Status(Code::kInvalidArgument,
                  "'" + address + "' is not an address; expected host:port, for example 127.0.0.1:2379 or [::1]:2379");
  }
  return target;
}

Result<std::vector<SocketAddress>> ResolveHost(const HostPort& target, bool numeric_only) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (numeric_only ? AI_NUMERICHOST : AI_ADDRCONFIG);
  addrinfo* found = nullptr;
  const int error = getaddrinfo(target.host.c_str(), target.port.c_str(), &hints, &found);
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> held(found, [](addrinfo* list) {
    if (list != nullptr) freeaddrinfo(list);
  });
  if (error != 0) {
    return Status(Code::kNotFound, "the name '" + target.host + "' cannot be resolved: " + gai_strerror(error));
  }
  std::vector<SocketAddress> addresses;
  for (const addrinfo* entry = found; entry != nullptr && addresses.size() < kMaxAddresses; entry = entry->ai_next) {
    SocketAddress address;
    std::memcpy(&address.storage, entry->ai_addr, entry->ai_addrlen);
    address.size = entry->ai_addrlen;
    addresses.push_back(address);
  }
  return addresses;
}

Result<int> BeginConnect(const SocketAddress& address) {
  const int fd = socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return Status(Code::kResourceExhausted, std::string("socket: ") + std::strerror(errno));
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address.storage), address.size) != 0 && errno != EINPROGRESS) {
    const std::string reason = std::string("connect: ") + std::strerror(errno);
    close(fd);
    return Status(Code::kUnavailable, reason);
  }
  return fd;
}

}  // namespace mesh::rpc
