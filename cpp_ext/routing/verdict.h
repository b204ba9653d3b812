// What a failed attempt means: for the request (try again?) and for the endpoint (its fault?). The twin of
// serving/discovery/client_verdict.py; tests/contract/routing runs both.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/status.h"

namespace mesh::routing {

// What may be done with the request.
enum class Next : std::uint8_t {
  kRaise,          // it would fail again, or may have been done already
  kElsewhere,      // try another endpoint at once
  kElsewhereOnce,  // another endpoint may know better, but only one is asked
  kLater,          // try another endpoint, after a pause
};

// What it says about the endpoint.
enum class Fault : std::uint8_t {
  kNone,     // it works: the request was answered
  kBusy,     // it works and has no room
  kLeaving,  // it drains: no new work for it
  kFailed,   // counts towards ejection
  kSlow,     // counts too, unless the time was too short to say
  kLost,     // no connection: ejected at once
};

struct Verdict {
  Next next;
  Fault fault;
};

// The verdict on a status. `connected`: the connection still stands, so the status was sent by the endpoint itself.
// `retry_safe`: the request may be executed twice; one that may not is tried again only when it was surely not
// executed.
Verdict Judge(Code code, std::string_view details, bool connected, bool retry_safe);

// Whether the request surely was not executed: no connection was there on which it could have reached the endpoint, or
// a client of cpp_ext/rpc says so (kNotProcessed at the end). With a connection the words are the endpoint's own:
// "connection refused" is then what its model met.
bool WasNeverSent(std::string_view details, bool connected);

// Whether these are Triton's words for a model whose queue is full (max_queue_size), of UNAVAILABLE.
bool IsQueueFull(std::string_view details);

}  // namespace mesh::routing
