// Typed tensor contents (inference.InferTensorContents) as the bytes that Triton wants.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"
#include "triton/datatype.h"

namespace mesh::ingress {

// Row-major little-endian bytes; BYTES elements with their 4-byte lengths. INVALID_ARGUMENT when the contents are of
// another type than `type` (`who` begins the message: "input 'x' of model 'm'"), of several types, do not fit the type,
// or are no such message. FP16 and BF16 have no typed contents in the protocol.
Result<std::string> ContentsToBytes(std::string_view contents, triton::DataType type, const std::string& input,
                                    const std::string& model);

}  // namespace mesh::ingress
