// From Triton's response to the body of a REST answer.
#pragma once

#include <string_view>

#include "common/status.h"
#include "http/response.h"
#include "ingress/request_builder.h"
#include "ingress/rest_infer_reader.h"
#include "ingress/rest_tensor.h"
#include "rpc/compression.h"
#include "triton/infer.h"
#include "triton/server.h"

namespace mesh::ingress {

// 400 for INVALID_ARGUMENT and so on, as `tritonserver` has them.
int HttpStatus(Code code);
http::Response RestError(const Status& status);

// The answer to .../infer for a response that is present and carries no error: JSON, and behind it the outputs that
// the client wants as bytes, without a copy of large ones.
Result<http::Response> RestAnswer(const triton::InferResponse& response, const RequestExtras& extras,
                                  const triton::Server& server, const OutputForms& forms, rpc::Encoding encoding);

// The answer to .../generate for the same: one flat JSON object, its members in order of their names.
Result<std::string> GenerateAnswer(const triton::InferResponse& response, const RequestExtras& extras,
                                   const triton::Server& server);

// The encoding of an answer that an Accept-Encoding header asks for: of those known the one of the highest weight.
rpc::Encoding WantedEncoding(std::string_view accept_encoding);

}  // namespace mesh::ingress
