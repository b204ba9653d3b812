#include "ingress/infer_message.h"

#include <gtest/gtest.h>

#include <protozero/pbf_writer.hpp>
#include <random>
#include <string>
#include <vector>

namespace mesh::ingress {
namespace {

using protozero::pbf_writer;

void AddParameter(pbf_writer* out, std::uint32_t field, const std::string& key, std::int64_t value) {
  pbf_writer entry(*out, field);
  entry.add_string(1, key);
  pbf_writer parameter(entry, 2);
  parameter.add_int64(2, value);
}

std::string Example() {
  std::string bytes;
  pbf_writer out(bytes);
  out.add_string(1, "model");
  out.add_string(2, "3");
  out.add_string(3, "request-1");
  AddParameter(&out, 4, "priority", 1);
  AddParameter(&out, 4, "priority", 2);
  for (const char* name : {"A", "B"}) {
    pbf_writer input(out, 5);
    input.add_string(1, name);
    input.add_string(2, "FP32");
    const std::int64_t dims[] = {2, -7};
    input.add_packed_int64(3, std::begin(dims), std::end(dims));
    input.add_int64(3, 9);  // unpacked elements are legal beside packed ones
    AddParameter(&input, 4, name, 5);
  }
  {
    pbf_writer output(out, 6);
    output.add_string(1, "OUT");
    AddParameter(&output, 2, "classification", 3);
  }
  out.add_bytes(7, std::string("\0\1\2", 3));
  out.add_string(99, "from a newer client");
  return bytes;
}

TEST(InferMessage, ReadsEverything) {
  const std::string bytes = Example();
  InferMessage message;
  ASSERT_TRUE(ParseInferMessage(bytes, &message).ok());
  EXPECT_EQ(message.model_name, "model");
  EXPECT_EQ(message.model_version, "3");
  EXPECT_EQ(message.id, "request-1");
  ASSERT_EQ(message.parameters.size(), 1U) << "of a key given twice the last value counts";
  EXPECT_EQ(message.parameters[0].int64_value, 2);
  ASSERT_EQ(message.inputs.size(), 2U);
  const TensorView& second = message.inputs[1];
  EXPECT_EQ(second.name, "B");
  ASSERT_EQ(second.shape.count, 3U);
  EXPECT_EQ(message.dims[second.shape.begin + 1], -7);
  EXPECT_EQ(message.dims[second.shape.begin + 2], 9);
  ASSERT_EQ(second.parameters.count, 1U);
  EXPECT_EQ(message.tensor_parameters[second.parameters.begin].key, "B");
  ASSERT_EQ(message.outputs.size(), 1U);
  EXPECT_EQ(message.tensor_parameters[message.outputs[0].parameters.begin].key, "classification");
  ASSERT_EQ(message.raw_inputs.size(), 1U);
  EXPECT_EQ(message.raw_inputs[0].data(), bytes.data() + bytes.find(std::string("\0\1\2", 3))) << "no copy";
}

TEST(InferMessage, ParameterKinds) {
  std::string bytes;
  pbf_writer out(bytes);
  const auto add = [&](const char* key, auto write) {
    pbf_writer entry(out, 4);
    entry.add_string(1, key);
    pbf_writer parameter(entry, 2);
    write(parameter);
  };
  add("bool", [](pbf_writer& p) { p.add_bool(1, true); });
  add("string", [](pbf_writer& p) { p.add_string(3, "x"); });
  add("double", [](pbf_writer& p) { p.add_double(4, 1.5); });
  add("uint", [](pbf_writer& p) { p.add_uint64(5, UINT64_MAX); });
  add("last", [](pbf_writer& p) { p.add_bool(1, true), p.add_int64(2, -4); });
  add("none", [](pbf_writer& p) { p.add_string(9, "unknown"); });
  InferMessage message;
  ASSERT_TRUE(ParseInferMessage(bytes, &message).ok());
  using Kind = ParameterView::Kind;
  const std::vector<Kind> kinds{Kind::kBool, Kind::kString, Kind::kDouble, Kind::kUint64, Kind::kInt64, Kind::kNone};
  ASSERT_EQ(message.parameters.size(), kinds.size());
  for (std::size_t i = 0; i < kinds.size(); ++i) EXPECT_EQ(message.parameters[i].kind, kinds[i]) << i;
  EXPECT_EQ(message.parameters[3].uint64_value, UINT64_MAX);
}

TEST(InferMessage, EveryCutIsAnswered) {
  const std::string whole = Example();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    InferMessage message;
    const std::string cut(whole.data(), size);
    const Status status = ParseInferMessage(cut, &message);
    EXPECT_TRUE(status.ok() || status.code() == Code::kInternal) << size << status.ToString();
  }
}

// Views must lie inside the bytes, whatever they are; the sanitizers watch the rest.
TEST(InferMessage, RandomChangesAreAnswered) {
  std::mt19937 random(1);
  const std::string whole = Example();
  for (int round = 0; round < 20000; ++round) {
    std::string changed = whole;
    for (int change = 0; change < 1 + round % 8; ++change) {
      changed[random() % changed.size()] = static_cast<char>(random());
    }
    InferMessage message;
    const Status status = ParseInferMessage(changed, &message);
    if (!status.ok()) {
      EXPECT_NE(status.message(), "");
      continue;
    }
    for (const TensorView& input : message.inputs) {
      ASSERT_LE(input.shape.begin + input.shape.count, message.dims.size());
      ASSERT_LE(input.parameters.begin + input.parameters.count, message.tensor_parameters.size());
    }
    for (const std::string_view raw : message.raw_inputs) {
      ASSERT_GE(raw.data(), changed.data());
      ASSERT_LE(raw.data() + raw.size(), changed.data() + changed.size());
    }
  }
}

// What a few bytes each could otherwise blow up to gigabytes, or to minutes on an event loop.
TEST(InferMessage, ListsBeyondMeasureAreRefused) {
  const auto repeated = [](const std::string& field, std::size_t count) {
    std::string bytes;
    for (std::size_t i = 0; i < count; ++i) bytes += field;
    return bytes;
  };
  std::string parameters;
  pbf_writer out(parameters);
  for (int i = 0; i < 100000; ++i) AddParameter(&out, 4, std::to_string(i), i);
  std::string dims;
  {
    pbf_writer whole(dims);
    pbf_writer input(whole, 5);
    input.add_bytes(3, std::string(1000000, '\1'));
  }
  const std::string inputs = repeated(std::string("\x2a\0", 2), 100000);
  const std::string outputs = repeated(std::string("\x32\0", 2), 100000);
  const std::string raws = repeated(std::string("\x3a\0", 2), 100000);
  const std::string same_key = repeated(std::string("\x22\0", 2), 100000);
  for (const std::string& bytes : {parameters, same_key, dims, inputs, outputs, raws}) {
    InferMessage message;
    const Status status = ParseInferMessage(bytes, &message);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << status.ToString();
    EXPECT_NE(status.message().find("which is the limit"), std::string::npos) << status.ToString();
    message.Clear();
    EXPECT_TRUE(ParseInferMessage(Example(), &message).ok()) << "counts start anew";
  }
}

TEST(InferMessage, ContentsTwiceIsRefused) {
  std::string bytes;
  pbf_writer out(bytes);
  pbf_writer input(out, 5);
  input.add_message(5, std::string());
  input.add_message(5, std::string());
  input.commit();
  InferMessage message;
  EXPECT_EQ(ParseInferMessage(bytes, &message).code(), Code::kInvalidArgument);
}

TEST(OtherMessages, AreRead) {
  std::string bytes;
  pbf_writer out(bytes);
  out.add_string(1, "m");
  out.add_string(2, "7");
  EXPECT_EQ(ParseModelMessage(bytes).value().version, "7");
  EXPECT_EQ(ParseIndexMessage(bytes).status().code(), Code::kUnimplemented) << "a repository's name";
  EXPECT_EQ(ParseIndexMessage(std::string("\x10\x01", 2)).value(), true);
  EXPECT_EQ(ParseIndexMessage(std::string("\x10\x80\x00", 3)).value(), false) << "a number of several bytes";
  EXPECT_EQ(ParseIndexMessage(std::string_view("\x10\x01", 1)).status().code(), Code::kInternal) << "cut off";
  EXPECT_TRUE(ParseEmptyMessage("").ok());
  EXPECT_EQ(ParseEmptyMessage("\xFF").code(), Code::kInternal);
}

}  // namespace
}  // namespace mesh::ingress
