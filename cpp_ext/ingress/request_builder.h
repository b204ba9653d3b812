// From the message of a client to Triton's request.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "ingress/infer_message.h"
#include "ingress/text.h"
#include "triton/handles.h"

namespace mesh::ingress {

// What Triton's request refers to or the answer needs, beyond the received bytes; stays until the request is released.
struct RequestExtras {
  std::vector<std::string> typed_contents;
  std::vector<std::pair<std::string, std::uint32_t>> classifications;  // output → number of classes
  bool empty_final = false;  // a decoupled request's end is wanted as a message of its own
};

// Sets id, parameters, inputs and outputs of `request` for the parsed `message`. The bytes of raw inputs are not
// copied: `message`'s own bytes must stay until the request is released. `deadline_us` (0: none) bounds the time in
// Triton's queues. INVALID_ARGUMENT and UNIMPLEMENTED name the field; where Triton checks something itself its own
// words come back.
Status BuildRequest(const InferMessage& message, std::uint64_t deadline_us, TRITONSERVER_InferenceRequest* request,
                    CStringArena* arena, RequestExtras* extras);

}  // namespace mesh::ingress
