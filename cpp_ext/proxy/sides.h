// What an application's traffic splits mean for one request.
#pragma once

#include "proxy/core.h"
#include "proxy/endpoint.h"
#include "proxy/request_head.h"
#include "rpc/server.h"

namespace mesh::proxy {

// Chooses the sides of a request whose head and metadata were read, once for all that is done with it, and counts it.
// Does nothing while the splits are not known.
void ChooseSides(Core& core, const rpc::Metadata& metadata, RequestHead* head);
// Where there are splits: chooses who gets a copy of it, if anybody: not of what belongs to a sequence, nor of a copy.
void ChooseShadow(Core& core, const rpc::Metadata& metadata, RequestHead* head);
// The deployment that is to answer, where its requests are brought through a broker that takes them now; or "". One
// without a replica is asked by its own name.
[[nodiscard]] std::string PulledDeployment(Core& core, const rpc::Metadata& metadata, RequestHead* head);
// Counts an attempt at an endpoint of another side. True when it was one.
bool CountSpare(Core& core, const routing::Sides& sides, const Endpoint& endpoint);

}  // namespace mesh::proxy
