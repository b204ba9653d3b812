#include "ingress/json_to_proto.h"

#include <gtest/gtest.h>

#include <protozero/pbf_reader.hpp>
#include <string>

#include "ingress/control_tables.h"

namespace mesh::ingress {
namespace {

// The bytes of field `number` of a message; "-" when it is not there.
std::string Field(const std::string& bytes, std::uint32_t number) {
  protozero::pbf_reader reader(bytes);
  while (reader.next(number, protozero::pbf_wire_type::length_delimited)) return reader.get_string();
  return "-";
}

std::string Config(const std::string& json) {
  Result<std::string> encoded = JsonToProto(json, kModelConfigTable);
  EXPECT_TRUE(encoded.ok()) << encoded.status().ToString();
  return encoded.ok() ? encoded.value() : "";
}

TEST(JsonToProto, DefaultsAreLeftOutAndFieldsAreInOrder) {
  EXPECT_EQ(Config(R"({"max_batch_size": 0, "backend": "", "name": "m"})"), std::string("\x0a\x01m"));
  EXPECT_EQ(Config(R"({"backend": "b", "name": "m", "max_batch_size": 3})"),
            std::string("\x0a\x01m\x20\x03\x8a\x01\x01") + "b");
}

TEST(JsonToProto, EmptyMessagesArePresent) {
  EXPECT_EQ(Field(Config(R"({"dynamic_batching": {}})"), 11), "");
  EXPECT_EQ(Field(Config(R"({"dynamic_batching": null})"), 11), "-");
}

TEST(JsonToProto, OneofsKeepDefaults) {
  const std::string warmup = Field(Config(R"({"model_warmup": [{"inputs": {"x": {"zero_data": false}}}]})"), 16);
  const std::string value = Field(Field(warmup, 3), 2);
  EXPECT_EQ(value, std::string("\x18\x00", 2));
}

TEST(JsonToProto, NumbersComeInManyForms) {
  const auto delay = [](const std::string& text) {
    return Field(Config(R"({"dynamic_batching": {"max_queue_delay_microseconds": )" + text + "}}"), 11);
  };
  EXPECT_EQ(delay("300"), std::string("\x10\xac\x02"));
  EXPECT_EQ(delay("\"300\""), std::string("\x10\xac\x02"));
  EXPECT_EQ(Field(Config(R"({"input": [{"dims": ["-1", 3], "data_type": "TYPE_FP32"}]})"), 5).substr(0, 2), "\x10\x0b");
  EXPECT_EQ(Field(Config(R"({"input": [{"data_type": 11}]})"), 5), "\x10\x0b");
}

TEST(JsonToProto, MapsAreRepeatedEntries) {
  EXPECT_EQ(Field(Config(R"({"parameters": {"k": {"string_value": "v"}}})"), 14),
            std::string("\x0a\x01k\x12\x03\x0a\x01v"));
  const std::string policies = Field(Config(R"({"dynamic_batching": {"priority_queue_policy": {"2": {}}}})"), 11);
  EXPECT_EQ(Field(policies, 7), std::string("\x08\x02\x12\x00", 4));
}

TEST(JsonToProto, WrongTypesAreNamedByPath) {
  for (const char* json : {R"({"input": [{"dims": ["x"]}]})", R"({"input": {"dims": []}})", R"({"name": 3})",
                           R"({"input": [{"data_type": "TYPE_NEW"}]})", R"({"dynamic_batching": 3})", "[]", "{"}) {
    const Status status = JsonToProto(json, kModelConfigTable).status();
    EXPECT_EQ(status.code(), Code::kInternal) << json;
    EXPECT_NE(status.message().find("ModelConfig"), std::string::npos) << status.message();
  }
  EXPECT_NE(JsonToProto(R"({"input": [{"dims": ["x"]}]})", kModelConfigTable).status().message().find("input.dims"),
            std::string::npos);
}

TEST(JsonToProto, UnknownFieldsAndDeepNestingAreHarmless) {
  EXPECT_EQ(Config(R"({"name": "m", "something_new": {"a": [1]}})"), std::string("\x0a\x01m"));
}

TEST(JsonArrayToProto, RepeatsOneField) {
  Result<std::string> encoded = JsonArrayToProto(R"([{"name": "a"}, {"name": "b"}, {}])", 1, kModelIndexTable);
  ASSERT_TRUE(encoded.ok());
  EXPECT_EQ(encoded.value(), std::string("\x0a\x03\x0a\x01"
                                         "a\x0a\x03\x0a\x01"
                                         "b\x0a\x00",
                                         12));
}

}  // namespace
}  // namespace mesh::ingress
