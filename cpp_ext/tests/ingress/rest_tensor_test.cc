#include "ingress/rest_tensor.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "ingress/rest_answer.h"
#include "ingress/rest_infer_reader.h"

namespace mesh::ingress {
namespace {

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// The tensor, or "<code>: <message>".
std::string Read(const std::string& json, triton::DataType type, std::int64_t elements) {
  std::string bytes;
  const Status status = ReadGuarded([&] { bytes = JsonToTensor(ParseJson(json), type, "x", elements); });
  return status.ok() ? bytes : status.ToString();
}

std::string Write(triton::DataType type, const std::vector<std::int64_t>& shape, const std::string& data) {
  rapidjson::StringBuffer text;
  JsonWriter out(text);
  const Status status =
      TensorToJson({"x", triton::DataTypeName(type), shape.data(), shape.size(), {data.data(), data.size()}, {}}, &out);
  return status.ok() ? std::string(text.GetString(), text.GetSize()) : status.ToString();
}

TEST(RestTensor, NumbersBothWays) {
  const std::string floats = Bytes<float>({1, -2.5F, std::numeric_limits<float>::infinity()});
  EXPECT_EQ(Read("[[1],[-2.5,[Infinity]]]", TRITONSERVER_TYPE_FP32, 3), floats);
  EXPECT_EQ(Write(TRITONSERVER_TYPE_FP32, {3}, floats), "[1.0,-2.5,Infinity]");
  const std::string longs = Bytes<std::uint64_t>({0, std::numeric_limits<std::uint64_t>::max()});
  EXPECT_EQ(Read("[0,18446744073709551615]", TRITONSERVER_TYPE_UINT64, 2), longs);
  EXPECT_EQ(Write(TRITONSERVER_TYPE_UINT64, {1, 2}, longs), "[0,18446744073709551615]");
  EXPECT_EQ(Read("[true,false]", TRITONSERVER_TYPE_BOOL, 2), std::string("\1\0", 2));
  EXPECT_EQ(Write(TRITONSERVER_TYPE_INT8, {2}, "\x7f\x80"), "[127,-128]");
  EXPECT_EQ(Write(TRITONSERVER_TYPE_FP64, {0}, ""), "[]");
}

TEST(RestTensor, StringsBothWays) {
  const std::string strings("\1\0\0\0a\0\0\0\0\2\0\0\0\0\"", 15);
  EXPECT_EQ(Read("[\"a\",[\"\",\"\\u0000\\\"\"]]", TRITONSERVER_TYPE_BYTES, 3), strings);
  EXPECT_EQ(Write(TRITONSERVER_TYPE_BYTES, {3}, strings), "[\"a\",\"\",\"\\u0000\\\"\"]");
}

TEST(RestTensor, WhatDoesNotFitIsNamed) {
  EXPECT_EQ(Read("[1]", TRITONSERVER_TYPE_INT32, 2),
            "INTERNAL: Unable to parse 'data': Shape does not match true shape of 'data' field");
  EXPECT_EQ(Read("[1,2,3]", TRITONSERVER_TYPE_INT32, 2),
            "INTERNAL: Unable to parse 'data': Shape does not match true shape of 'data' field");
  EXPECT_EQ(Read("[1.5]", TRITONSERVER_TYPE_INT32, 1),
            "INTERNAL: Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer");
  EXPECT_EQ(Read("[5]", TRITONSERVER_TYPE_BYTES, 1),
            "INTERNAL: Unable to parse JSON bytes array: attempt to access JSON non-string as string");
  EXPECT_NE(Read("[5]", TRITONSERVER_TYPE_FP16, 1).find("binary data format"), std::string::npos);
  EXPECT_NE(Write(TRITONSERVER_TYPE_BF16, {1}, "ab").find("binary data format"), std::string::npos);
  for (const std::string& bytes : {std::string("\5\0\0\0abc", 7), std::string("\1\0", 2)}) {
    EXPECT_NE(Write(TRITONSERVER_TYPE_BYTES, {1}, bytes).find("does not match size"), std::string::npos);
  }
  EXPECT_NE(Write(TRITONSERVER_TYPE_FP32, {3}, "12345678").find("does not match size"), std::string::npos);
}

TEST(RestReader, ReadsTensorsBehindTheJson) {
  InferMessage message;
  RequestExtras extras;
  OutputForms forms;
  RestInferReader reader("m", &message, &extras, &forms);
  const Status status = reader.Read(
      R"({"id":"i","parameters":{"binary_data_output":true,"a":1.5,"sequence_id":18446744073709551615},
          "inputs":[{"name":"A","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}},
                    {"name":"B","datatype":"INT8","shape":[2],"data":[1,2]},
                    {"name":"C","datatype":"FP32","shape":[9],
                     "parameters":{"shared_memory_region":"r","shared_memory_byte_size":36}}],
          "outputs":[{"name":"O","parameters":{"classification":3}},{"name":"P","parameters":{"binary_data":true}}]})",
      "abcd");
  ASSERT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(message.id, "i");
  ASSERT_EQ(message.inputs.size(), 3U);
  ASSERT_EQ(message.raw_inputs.size(), 2U);
  EXPECT_EQ(message.raw_inputs[0], "abcd");
  EXPECT_EQ(message.raw_inputs[1], "\1\2");
  EXPECT_EQ(message.inputs[2].parameters.count, 3U);
  ASSERT_EQ(message.parameters.size(), 2U);
  EXPECT_EQ(message.parameters[1].int64_value, -1) << "the same bits";
  EXPECT_FALSE(forms.IsBinary("O"));
  EXPECT_TRUE(forms.IsBinary("P"));
  EXPECT_TRUE(forms.IsBinary("Q"));
}

TEST(RestReader, TooManyAndNulAreRefused) {
  const auto read = [](const std::string& json) {
    InferMessage message;
    RequestExtras extras;
    OutputForms forms;
    return RestInferReader("m", &message, &extras, &forms).Read(json, "").code();
  };
  std::string many = R"({"inputs":[],"parameters":{)";
  for (int i = 0; i < 1025; ++i) many += (i == 0 ? "\"p" : ",\"p") + std::to_string(i) + "\":1";
  EXPECT_EQ(read(many + "}}"), Code::kInvalidArgument);
  EXPECT_EQ(read(R"({"id":"a\u0000b","inputs":[]})"), Code::kInvalidArgument);
  EXPECT_EQ(read(R"({"inputs":[]})"), Code::kOk);
}

TEST(RestAnswer, TheEncodingOfTheHighestWeightIsTaken) {
  EXPECT_EQ(WantedEncoding(""), rpc::Encoding::kIdentity);
  EXPECT_EQ(WantedEncoding("br, *"), rpc::Encoding::kIdentity);
  EXPECT_EQ(WantedEncoding(" gzip "), rpc::Encoding::kGzip);
  EXPECT_EQ(WantedEncoding("gzip;q=0.5, deflate"), rpc::Encoding::kDeflate);
  EXPECT_EQ(WantedEncoding("gzip;q=x,deflate;q=0"), rpc::Encoding::kIdentity);
}

}  // namespace
}  // namespace mesh::ingress
