// From the message of a client to Triton's request.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "ingress/infer_message.h"
#include "ingress/shared_memory.h"
#include "ingress/text.h"
#include "rpc/message.h"
#include "triton/handles.h"

namespace mesh::ingress {

// What Triton's request refers to or the answer needs, beyond the received bytes; stays until the request is released.
struct RequestExtras {
  // A place in shared memory that the client wants an output in.
  struct SharedOutput {
    std::string name;
    rpc::Slice place;
  };
  std::vector<std::string> typed_contents;
  std::vector<std::pair<std::string, std::uint32_t>> classifications;  // output → number of classes
  std::vector<rpc::Slice> shared_inputs;
  std::vector<SharedOutput> shared_outputs;
  bool empty_final = false;  // a decoupled request's end is wanted as a message of its own
};

// Sets id, parameters, inputs and outputs of `request` for the parsed `message`. The bytes of raw inputs are not
// copied: `message`'s own bytes must stay until the request is released, and those of shared memory do. `deadline_us`
// (0: none) bounds the time in Triton's queues. INVALID_ARGUMENT and UNIMPLEMENTED name the field; where Triton checks
// something itself its own words come back.
Status BuildRequest(const InferMessage& message, std::uint64_t deadline_us, TRITONSERVER_InferenceRequest* request,
                    const SharedMemory& shared_memory, CStringArena* arena, RequestExtras* extras);

// A parameter that is the model's own affair. INVALID_ARGUMENT for types that Triton has none of.
Status SetCustomParameter(const ParameterView& parameter, TRITONSERVER_InferenceRequest* request, CStringArena* arena);

// Where the output `name` of `size` bytes goes: into shared memory, or (null) wherever there is room. INTERNAL when the
// client's place is too small.
Result<char*> PlaceOutput(const RequestExtras& extras, std::string_view name, std::size_t size);

}  // namespace mesh::ingress
