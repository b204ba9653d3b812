#include "triton/datatype.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace mesh::triton {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

std::optional<std::int64_t> Count(const std::vector<std::int64_t>& shape) {
  return ElementCount(shape.data(), shape.size());
}

TEST(DataType, NamesAndSizesGoTogether) {
  const std::vector<std::pair<const char*, std::size_t>> expected{
      {"BOOL", 1},  {"UINT8", 1}, {"UINT16", 2}, {"UINT32", 4}, {"UINT64", 8}, {"INT8", 1},  {"INT16", 2},
      {"INT32", 4}, {"INT64", 8}, {"FP16", 2},   {"FP32", 4},   {"FP64", 8},   {"BYTES", 0}, {"BF16", 2}};
  for (const auto& [name, size] : expected) {
    const DataType type = ParseDataType(name);
    EXPECT_NE(type, TRITONSERVER_TYPE_INVALID) << name;
    EXPECT_STREQ(DataTypeName(type), name);
    EXPECT_EQ(DataTypeSize(type), size) << name;
  }
}

TEST(DataType, OtherNamesAreInvalid) {
  for (const char* name : {"", "FP33", "fp32", "FP32 ", "<invalid>", "TYPE_FP32"}) {
    EXPECT_EQ(ParseDataType(name), TRITONSERVER_TYPE_INVALID) << name;
  }
  EXPECT_STREQ(DataTypeName(static_cast<DataType>(99)), "<invalid>");
  EXPECT_EQ(DataTypeSize(static_cast<DataType>(99)), 0U);
}

TEST(ElementCount, MultipliesAndRefuses) {
  EXPECT_EQ(Count({}), 1);
  EXPECT_EQ(Count({2, 3, 4}), 24);
  EXPECT_EQ(Count({5, 0}), 0);
  EXPECT_EQ(Count({kMost}), kMost);
  EXPECT_EQ(Count({-1}), std::nullopt);
  EXPECT_EQ(Count({2, -3, -4}), std::nullopt);
  EXPECT_EQ(Count({std::numeric_limits<std::int64_t>::min()}), std::nullopt);
  EXPECT_EQ(Count({kMost, 2}), std::nullopt);
  EXPECT_EQ(Count({1LL << 32, 1LL << 32}), std::nullopt);
}

}  // namespace
}  // namespace mesh::triton
