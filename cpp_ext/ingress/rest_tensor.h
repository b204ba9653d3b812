// Tensors between JSON and the bytes that Triton takes and gives.
#pragma once

#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>

#include <string>
#include <string_view>

#include "common/status.h"
#include "ingress/response_writer.h"
#include "ingress/rest_json.h"
#include "triton/datatype.h"

namespace mesh::ingress {

// NaN and Infinity are written as such, as `tritonserver` does.
using JsonWriter = rapidjson::Writer<rapidjson::StringBuffer, rapidjson::UTF8<>, rapidjson::UTF8<>,
                                     rapidjson::CrtAllocator, rapidjson::kWriteNanAndInfFlag>;

// Row-major little-endian bytes of a value or of arrays nested in any way; `elements` of them are expected, but of
// strings, which Triton counts itself. Throws JsonFault: INTERNAL for values of another type and for another number,
// INVALID_ARGUMENT for FP16 and BF16, which JSON does not carry, and for what is no datatype.
std::string JsonToTensor(const Json& data, triton::DataType type, std::string_view input, std::int64_t elements);

// A part's values as one flat array. INTERNAL when its bytes are not what its shape says, INVALID_ARGUMENT for FP16
// and BF16. After a failure the writer's text is of no use.
Status TensorToJson(const OutputPart& part, JsonWriter* out);
// The same, but a single value comes without an array around it.
Status ValueToJson(const OutputPart& part, JsonWriter* out);

}  // namespace mesh::ingress
