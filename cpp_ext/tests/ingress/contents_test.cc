#include "ingress/contents.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <protozero/pbf_writer.hpp>
#include <random>
#include <string>
#include <vector>

namespace mesh::ingress {
namespace {

using protozero::pbf_writer;

Result<std::string> Convert(const std::string& contents, triton::DataType type) {
  return ContentsToBytes(contents, type, "IN", "model");
}

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::string Ints(std::uint32_t field, const std::vector<std::int32_t>& values) {
  std::string bytes;
  pbf_writer(bytes).add_packed_int32(field, values.begin(), values.end());
  return bytes;
}

TEST(Contents, IntegersBecomeTheInputsType) {
  const std::vector<std::int32_t> values{1, -2, 127};
  EXPECT_EQ(Convert(Ints(2, values), TRITONSERVER_TYPE_INT8).value(), Bytes<std::int8_t>({1, -2, 127}));
  EXPECT_EQ(Convert(Ints(2, values), TRITONSERVER_TYPE_INT16).value(), Bytes<std::int16_t>({1, -2, 127}));
  EXPECT_EQ(Convert(Ints(2, values), TRITONSERVER_TYPE_INT32).value(), Bytes<std::int32_t>({1, -2, 127}));
  EXPECT_EQ(Convert(Ints(4, {1, 255}), TRITONSERVER_TYPE_UINT8).value(), Bytes<std::uint8_t>({1, 255}));
  EXPECT_EQ(Convert(Ints(4, {1, 65535}), TRITONSERVER_TYPE_UINT16).value(), Bytes<std::uint16_t>({1, 65535}));
  EXPECT_EQ(Convert(Ints(1, {1, 0, 1}), TRITONSERVER_TYPE_BOOL).value(), std::string("\1\0\1", 3));
  EXPECT_EQ(Convert(Ints(3, {1, 5}), TRITONSERVER_TYPE_INT64).value(), Bytes<std::int64_t>({1, 5}));
  EXPECT_EQ(Convert(Ints(5, {1, 5}), TRITONSERVER_TYPE_UINT64).value(), Bytes<std::uint64_t>({1, 5}));
}

TEST(Contents, ValuesThatDoNotFitAreNamed) {
  for (const auto& [contents, type] :
       std::vector<std::pair<std::string, triton::DataType>>{{Ints(2, {128}), TRITONSERVER_TYPE_INT8},
                                                             {Ints(2, {-129}), TRITONSERVER_TYPE_INT8},
                                                             {Ints(2, {40000}), TRITONSERVER_TYPE_INT16},
                                                             {Ints(4, {256}), TRITONSERVER_TYPE_UINT8},
                                                             {Ints(4, {65536}), TRITONSERVER_TYPE_UINT16}}) {
    const Status status = Convert(contents, type).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("does not fit"), std::string::npos) << status.message();
  }
}

TEST(Contents, FloatsPackedAndNot) {
  std::string bytes;
  pbf_writer out(bytes);
  const std::vector<float> first{1.5F, -2};
  out.add_packed_float(6, first.begin(), first.end());
  out.add_float(6, 3);
  EXPECT_EQ(Convert(bytes, TRITONSERVER_TYPE_FP32).value(), Bytes<float>({1.5F, -2, 3}));
  std::string doubles;
  pbf_writer(doubles).add_double(7, 0.1);
  EXPECT_EQ(Convert(doubles, TRITONSERVER_TYPE_FP64).value(), Bytes<double>({0.1}));
}

TEST(Contents, StringsGetTheirLengths) {
  std::string bytes;
  pbf_writer out(bytes);
  out.add_bytes(8, "ab");
  out.add_bytes(8, "");
  EXPECT_EQ(Convert(bytes, TRITONSERVER_TYPE_BYTES).value(), std::string("\2\0\0\0ab\0\0\0\0", 10));
}

TEST(Contents, OtherTypesAreRefusedInTritonsWords) {
  const Status wrong = Convert(Ints(2, {1}), TRITONSERVER_TYPE_FP32).status();
  EXPECT_EQ(wrong.message(),
            "unexpected explicit tensor data for input tensor 'IN' for model 'model' of type 'INT32', "
            "expected datatype 'FP32'");
  std::string floats;
  pbf_writer(floats).add_float(6, 1);
  for (const auto type : {TRITONSERVER_TYPE_FP16, TRITONSERVER_TYPE_BF16, TRITONSERVER_TYPE_INVALID}) {
    EXPECT_EQ(Convert(floats, type).status().code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(Convert(floats + Ints(2, {1}), TRITONSERVER_TYPE_FP32).status().code(), Code::kInvalidArgument);
}

TEST(Contents, RandomBytesAreAnswered) {
  std::mt19937 random(2);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes(random() % 40, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random() % (round % 2 == 0 ? 256 : 70));
    const auto type = static_cast<triton::DataType>(random() % 15);
    const Result<std::string> converted = Convert(bytes, type);
    EXPECT_TRUE(converted.ok() || converted.status().code() == Code::kInvalidArgument);
  }
}

}  // namespace
}  // namespace mesh::ingress
