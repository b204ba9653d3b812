// inference.ModelInferResponse, written from Triton's response.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "rpc/message.h"
#include "triton/infer.h"

namespace mesh::ingress {

// Outputs up to this size are copied behind their header, larger ones go out as they lie in memory.
constexpr std::size_t kCopyBytes = 2048;

// One output as it goes out: Triton's own, or the classification made of it.
struct OutputPart {
  std::string_view name;
  std::string_view datatype;
  const std::int64_t* shape = nullptr;
  std::size_t dims = 0;
  std::string_view data;
  rpc::Slice owned;  // the same bytes; needed for more than kCopyBytes, and else left empty to save its count
};

struct ResponseParts {
  std::string_view model_name;
  std::int64_t model_version = 0;
  std::string_view id;
  std::vector<OutputPart> outputs;
  std::string parameters;  // encoded entries of field 4
  bool streamed = false;   // wrapped as the `infer_response` of a ModelStreamInferResponse
};

// Memory for a small answer that the caller already has; `owner` keeps it alive.
struct Scratch {
  std::shared_ptr<const void> owner;
  char* data = nullptr;
  std::size_t size = 0;
};

// Encodes the parts, into the scratch when the answer is small. RESOURCE_EXHAUSTED when the answer is larger than a
// protobuf message can be.
Result<rpc::Message> WriteResponse(const ResponseParts& parts, const Scratch& scratch);

// Appends the response's parameters to `encoded` as entries of field 4.
Status AppendParameters(const triton::InferResponse& response, std::string* encoded);

}  // namespace mesh::ingress
