// From the bytes of an inference.ModelInferRequest to Triton's request.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>

#include "common/status.h"
#include "ingress/request_builder.h"
#include "triton/handles.h"
#include "triton/server.h"

namespace mesh::ingress {

struct PreparedRequest {
  triton::RequestHandle request;
  std::string_view model;  // both lie in the bytes, and are there as soon as these could be parsed
  std::string_view id;
  bool decoupled = false;  // the model may answer any number of times
};

enum class Answers : std::uint8_t { kOne, kAnyNumber };

// Fills `prepared` and `extras`. The bytes must stay until Triton has released the request. `deadline` bounds the time
// in Triton's queues. A decoupled model is UNIMPLEMENTED where only one answer can be given.
Status PrepareRequest(std::string_view bytes, const std::optional<std::chrono::steady_clock::time_point>& deadline,
                      const triton::Server& server, const SharedMemory& shared_memory, Answers answers,
                      PreparedRequest* prepared, RequestExtras* extras);

// What a client is told that asks for one answer of a decoupled model.
Status DecoupledRefused();

}  // namespace mesh::ingress
