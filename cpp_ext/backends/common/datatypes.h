// Triton's datatypes by name and size. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backends/common/backend_api.h"

namespace mesh::backend {

// "FP32", "BYTES" and so on; "INVALID" for a number outside the table.
const char* DataTypeName(TRITONSERVER_DataType type);

// Takes "TYPE_FP32" and "FP32", "TYPE_STRING" and "BYTES"; TRITONSERVER_TYPE_INVALID for anything else.
TRITONSERVER_DataType DataTypeFromName(const std::string& name);

// As a model configuration spells it: "TYPE_FP32", "TYPE_STRING" for BYTES.
std::string ConfigDataTypeName(TRITONSERVER_DataType type);

// Bytes of one element; 0 for BYTES and for invalid types.
std::uint32_t DataTypeSize(TRITONSERVER_DataType type);

// "[-1,64]".
std::string ShapeText(const std::int64_t* dims, std::size_t count);
inline std::string ShapeText(const std::vector<std::int64_t>& dims) { return ShapeText(dims.data(), dims.size()); }

}  // namespace mesh::backend
