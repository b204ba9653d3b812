#include "backends/common/datatypes.h"

#include <array>

namespace mesh::backend {
namespace {

struct TypeInfo {
  const char* name;
  std::uint32_t size;
};

// By Triton's number.
constexpr std::array<TypeInfo, 15> kTypes = {{{"INVALID", 0},
                                              {"BOOL", 1},
                                              {"UINT8", 1},
                                              {"UINT16", 2},
                                              {"UINT32", 4},
                                              {"UINT64", 8},
                                              {"INT8", 1},
                                              {"INT16", 2},
                                              {"INT32", 4},
                                              {"INT64", 8},
                                              {"FP16", 2},
                                              {"FP32", 4},
                                              {"FP64", 8},
                                              {"BYTES", 0},
                                              {"BF16", 2}}};

const TypeInfo& Info(TRITONSERVER_DataType type) {
  const auto index = static_cast<std::size_t>(type);
  return index < kTypes.size() ? kTypes[index] : kTypes[0];
}

}  // namespace

const char* DataTypeName(TRITONSERVER_DataType type) { return Info(type).name; }

TRITONSERVER_DataType DataTypeFromName(const std::string& name) {
  const std::string bare = name.rfind("TYPE_", 0) == 0 ? name.substr(5) : name;
  if (bare == "STRING") {
    return TRITONSERVER_TYPE_BYTES;
  }
  for (std::size_t index = 1; index < kTypes.size(); ++index) {
    if (bare == kTypes[index].name) {
      return static_cast<TRITONSERVER_DataType>(index);
    }
  }
  return TRITONSERVER_TYPE_INVALID;
}

std::string ConfigDataTypeName(TRITONSERVER_DataType type) {
  return type == TRITONSERVER_TYPE_BYTES ? "TYPE_STRING" : std::string("TYPE_") + DataTypeName(type);
}

std::uint32_t DataTypeSize(TRITONSERVER_DataType type) { return Info(type).size; }

std::string ShapeText(const std::int64_t* dims, std::size_t count) {
  std::string text = "[";
  for (std::size_t index = 0; index < count; ++index) {
    text += (index == 0 ? "" : ",") + std::to_string(dims[index]);
  }
  return text + "]";
}

}  // namespace mesh::backend
