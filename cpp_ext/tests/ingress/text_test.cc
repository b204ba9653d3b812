#include "ingress/text.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "triton/server.h"

namespace mesh::ingress {
namespace {

TEST(CheckText, TakesUtf8) {
  for (const char* text : {"", "model", "Größe", "模型", "\xF0\x9F\x98\x80", "\x7F\x01"}) {
    EXPECT_TRUE(CheckText(text, "name").ok()) << text;
  }
}

TEST(CheckText, RefusesWhatIsNoUtf8) {
  const std::vector<std::string> bad{"\xFF",
                                     "a\x80",
                                     "\xC3",
                                     "\xC0\xAF",
                                     "\xE0\x80\x80",
                                     "\xED\xA0\x80",
                                     "\xF4\x90\x80\x80",
                                     "\xF8\x88\x80\x80\x80",
                                     "\xE2\x82"};
  for (const std::string& text : bad) {
    const Status status = CheckText(text, "name");
    EXPECT_EQ(status.code(), Code::kInternal) << Printable(text);
    EXPECT_NE(status.message().find("name"), std::string::npos);
  }
}

TEST(CheckText, RefusesNul) { EXPECT_EQ(CheckText(std::string("a\0b", 3), "id").code(), Code::kInvalidArgument); }

TEST(Printable, ShowsNoControlAndIsBounded) {
  EXPECT_EQ(Printable("a\n\xFF\xC3\xA9"), "a??\xC3\xA9");
  EXPECT_EQ(Printable(std::string(1000, 'x'), 10), std::string(10, 'x') + "...");
  EXPECT_TRUE(CheckText(Printable(std::string("\xE2\x82\x00\xF0", 4)), "shown").ok());
}

TEST(CStringArena, KeepsStringsApartAndInPlace) {
  CStringArena arena;
  for (int round = 0; round < 3; ++round) {
    std::vector<const char*> copies;
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < 300; ++i) texts.push_back(std::string(i * 7 % 5000, static_cast<char>('a' + i % 26)));
    for (const std::string& text : texts) copies.push_back(arena.Copy(text));
    for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(texts[i], copies[i]);
    arena.Clear();
  }
}

TEST(ParseVersion, NumbersOnly) {
  EXPECT_EQ(ParseVersion("").value(), triton::kAnyVersion);
  EXPECT_EQ(ParseVersion("1").value(), 1);
  EXPECT_EQ(ParseVersion("0").value(), 0);
  EXPECT_EQ(ParseVersion("9223372036854775807").value(), INT64_MAX);
  for (const char* text : {"-1", "x", "1x", " 1", "1 ", "+1", "0x1", "9223372036854775808", "1.0"}) {
    EXPECT_EQ(ParseVersion(text).status().code(), Code::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace mesh::ingress
