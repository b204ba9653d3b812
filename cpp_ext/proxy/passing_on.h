// What goes with a forwarded call, in both directions.
#pragma once

#include <string>

#include "common/status.h"
#include "proxy/router.h"
#include "rpc/client.h"
#include "rpc/event_loop.h"
#include "rpc/server.h"

namespace mesh::proxy {

// Metadata and the time that is left, for the call to the endpoint. Left out are `user-agent`, as each hop says its
// own, and values that HTTP/2 does not allow.
rpc::CallOptions PassOn(const rpc::ServerCall& call, rpc::EventLoop::TimePoint now);

// A failure that is not the request's own, as the client is told it: with the endpoint's name in its message, and
// UNAVAILABLE where the endpoint, not the client, cancelled.
Status ForClient(const Status& status, const Peer& peer, int attempt);

// The status of a request that is not sent again, as too many fail.
Status BudgetUsedUp(const Status& status);

// UNAVAILABLE: the model is offered, and the traffic splits send this request to none of those who do.
Status NotOnItsSides(const Router& router, const std::string& application, const RequestHead& head);

// NOT_FOUND, with what is offered.
Status UnknownModel(const Router& router, const std::string& application, const RequestHead& head);

}  // namespace mesh::proxy
