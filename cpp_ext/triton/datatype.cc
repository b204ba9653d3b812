#include "triton/datatype.h"

#include <array>

namespace mesh::triton {
namespace {

struct Entry {
  const char* name;
  std::size_t size;
};

// By the numbers of TRITONSERVER_DataType.
constexpr std::array<Entry, 15> kTypes{{{"<invalid>", 0},
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

const Entry& Find(DataType type) {
  const auto index = static_cast<std::size_t>(type);
  return index < kTypes.size() ? kTypes[index] : kTypes[0];
}

}  // namespace

DataType ParseDataType(std::string_view name) {
  for (std::size_t i = 1; i < kTypes.size(); ++i) {
    if (name == kTypes[i].name) return static_cast<DataType>(i);
  }
  return TRITONSERVER_TYPE_INVALID;
}

const char* DataTypeName(DataType type) { return Find(type).name; }

std::size_t DataTypeSize(DataType type) { return Find(type).size; }

std::optional<std::int64_t> ElementCount(const std::int64_t* shape, std::size_t dims) {
  std::int64_t count = 1;
  for (std::size_t i = 0; i < dims; ++i) {
    if (shape[i] < 0 || __builtin_mul_overflow(count, shape[i], &count)) return std::nullopt;
  }
  return count;
}

}  // namespace mesh::triton
