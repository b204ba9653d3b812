// From Triton's response to the message that goes out: of ModelInfer, or wrapped as one of a stream.
#pragma once

#include <optional>
#include <string_view>

#include "common/status.h"
#include "ingress/request_builder.h"
#include "ingress/response_writer.h"
#include "rpc/message.h"
#include "triton/infer.h"
#include "triton/server.h"

namespace mesh::ingress {

// Model, id and outputs of a response that is present and carries no error, in no protocol yet; not its parameters. The
// views end with the response.
Status CollectParts(const triton::InferResponse& response, const RequestExtras& extras, const triton::Server& server,
                    ResponseParts* parts);

// inference.ModelInferResponse for a response that is present and carries no error.
Result<rpc::Message> EncodeAnswer(const triton::InferResponse& response, const RequestExtras& extras,
                                  const triton::Server& server, const Scratch& scratch);

// What the ends of a stream say of a response beyond the response itself.
struct StreamedForm {
  std::string_view model;  // as the request named it
  std::string_view id;     // of the request
  bool final = false;      // its parameter `triton_final_response`
};

// inference.ModelStreamInferResponse for the same.
Result<rpc::Message> EncodeStreamedAnswer(const triton::InferResponse& response, const RequestExtras& extras,
                                          const triton::Server& server, const Scratch& scratch,
                                          const StreamedForm& form);
// The end of a decoupled request without a further response, for a client that asked for it.
rpc::Message EncodeStreamedEnd(const StreamedForm& form);
// A request that failed; without `form.model` it was never given to a model.
rpc::Message EncodeStreamedError(const Status& status, const StreamedForm& form);

}  // namespace mesh::ingress
