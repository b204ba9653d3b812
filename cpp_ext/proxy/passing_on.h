// What goes with a forwarded call, in both directions.
#pragma once

#include <string>

#include "common/status.h"
#include "proxy/router.h"
#include "rpc/client.h"
#include "rpc/event_loop.h"
#include "rpc/server.h"

namespace mesh::proxy {

// Metadata and the time that is left, for the call to the endpoint.
rpc::CallOptions PassOn(const rpc::ServerCall& call, rpc::EventLoop::TimePoint now);

// The status with the endpoint's name in its message, for failures that are not the request's own.
Status NameEndpoint(const Status& status, const Peer& peer, int attempt);

// NOT_FOUND, with what is offered.
Status UnknownModel(const Router& router, const std::string& application, const RequestHead& head);

}  // namespace mesh::proxy
