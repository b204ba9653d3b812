// Copies of requests for a deployment that nobody depends on yet: what is answered is dropped.
#pragma once

#include <chrono>
#include <cstddef>

#include "proxy/core.h"
#include "proxy/request_head.h"
#include "rpc/message.h"
#include "rpc/server.h"

namespace mesh::proxy {

// As in serving/discovery/client_shadow.py.
inline constexpr std::size_t kMaxCopies = 100;            // of a proxy at one time
inline constexpr std::size_t kMaxCopyBytes = 64UL << 20;  // that they keep from being freed
inline constexpr std::chrono::seconds kLongestCopy{10};

// Sends the request's bytes, which are shared, to one endpoint of `head.shadow`, once. Whatever becomes of it touches
// neither the request nor the choice of endpoints for requests: it is only counted.
void SendCopy(Core& core, const RequestHead& head, const rpc::ServerCall& call, const rpc::Slice& request);

}  // namespace mesh::proxy
