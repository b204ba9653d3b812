#include "common/json.h"

#include <gtest/gtest.h>

namespace mesh::json {
namespace {

TEST(JsonTest, IntegersMayBeStringsOrNumbers) {
  const auto object = Parse(R"({"a":"9223372036854775807","b":-3,"c":5.0,"d":1e3,"e":null})", "it").value();
  EXPECT_EQ(Int64(object, "a").value(), 9223372036854775807);
  EXPECT_EQ(Int64(object, "b").value(), -3);
  EXPECT_EQ(Int64(object, "c").value(), 5);
  EXPECT_EQ(Int64(object, "d").value(), 1000);
  EXPECT_EQ(Int64(object, "e").value(), 0);
  EXPECT_EQ(Int64(object, "absent").value(), 0);
}

TEST(JsonTest, WhatIsNoIntegerIsNamed) {
  const auto object =
      Parse(R"({"a":"x","b":1.5,"c":"","d":"9223372036854775808","e":18446744073709551615,"f":[1],"g":"1 "})", "it")
          .value();
  for (const char* field : {"a", "b", "c", "d", "e", "f", "g"}) {
    const Status status = Int64(object, field).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << field;
    EXPECT_NE(status.message().find(std::string("'") + field + "'"), std::string::npos);
  }
}

TEST(JsonTest, FieldsKeepsTheFirstError) {
  const auto object = Parse(R"({"a":1,"b":"text","c":"1.5"})", "it").value();
  Fields in(object);
  EXPECT_EQ(in.Int("a"), 1);
  EXPECT_EQ(in.Number("c"), 1.5);
  EXPECT_EQ(in.Int("b"), 0);
  EXPECT_TRUE(in.Texts("a").empty());
  EXPECT_NE(in.status().message().find("'b'"), std::string::npos);
}

TEST(JsonTest, LongValuesAreCutInMessages) {
  nlohmann::json object = {{"a", std::string(10000, 'x')}};
  EXPECT_LT(Int64(object, "a").status().message().size(), 200U);
}

TEST(JsonTest, DeepAndRubbishTextsAreErrors) {
  EXPECT_FALSE(Parse("", "it").ok());
  EXPECT_FALSE(Parse("[1]", "it").ok());
  EXPECT_FALSE(Parse("{\"a\":\xff}", "it").ok());
}

}  // namespace
}  // namespace mesh::json
