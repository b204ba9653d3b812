// What the configurations of all C++ processes of the mesh have in common, read from canonical JSON.
#pragma once

#include <optional>

#include "common/json.h"
#include "common/log.h"
#include "registry/options.h"
#include "rpc/server.h"

namespace mesh::registry {

// TlsFiles of proto/records.proto at `field`; none when it is absent.
std::optional<rpc::TlsOptions> ReadTls(json::Fields& in, const char* field);
// EtcdConnection at "etcd"; without endpoints the process does not register itself. `ttl_s` 0 is the default.
Options ReadEtcd(json::Fields& in, int ttl_s);

// Where a process listens, and by which host others reach it.
struct Listening {
  std::string host;
  int port = 0;
  std::string advertise_host;
};

// "listenHost" (empty: loopback), "listenPort" (0: any) and "advertiseHost" (empty: the host; where that is every
// address, `node_address`). INVALID_ARGUMENT when others could not reach it.
Listening ReadListening(json::Fields& in, const std::string& node_address);
// "drainTimeoutS", 30 s by default.
std::chrono::milliseconds ReadDrainTimeout(json::Fields& in);
// "busyPollUs", 0 by default: the loops of the process sleep as soon as there is nothing to do.
std::chrono::microseconds ReadBusyPoll(json::Fields& in);
// "logLevel" and "logFile"; `base` is in every record.
log::Options ReadLog(json::Fields& in, std::vector<std::pair<std::string, std::string>> base);
// A part of the endpoint's key at `field`: neither empty nor with a '/'.
std::string ReadName(json::Fields& in, const char* field);

}  // namespace mesh::registry
