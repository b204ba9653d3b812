// The tensor datatypes of the protocol: names, sizes and sizes of whole tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "triton/c_api.h"

namespace mesh::triton {

using DataType = TRITONSERVER_DataType;

// "FP32" and so on; TRITONSERVER_TYPE_INVALID for what is no datatype.
DataType ParseDataType(std::string_view name);
// "<invalid>" for what is no datatype.
const char* DataTypeName(DataType type);
// Bytes of one element; 0 for BYTES, whose elements vary, and for what is no datatype.
std::size_t DataTypeSize(DataType type);

// The number of elements; nullopt for a negative dimension or a product beyond 2^63 - 1.
std::optional<std::int64_t> ElementCount(const std::int64_t* shape, std::size_t dims);

}  // namespace mesh::triton
