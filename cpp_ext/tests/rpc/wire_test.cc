#include "rpc/wire.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace mesh::rpc {
namespace {

using std::chrono::nanoseconds;

TEST(Timeout, ParsesEveryUnit) {
  EXPECT_EQ(ParseTimeout("1n"), nanoseconds(1));
  EXPECT_EQ(ParseTimeout("20u"), std::chrono::microseconds(20));
  EXPECT_EQ(ParseTimeout("300m"), std::chrono::milliseconds(300));
  EXPECT_EQ(ParseTimeout("4S"), std::chrono::seconds(4));
  EXPECT_EQ(ParseTimeout("5M"), std::chrono::minutes(5));
  EXPECT_EQ(ParseTimeout("6H"), std::chrono::hours(6));
  EXPECT_EQ(ParseTimeout("0S"), nanoseconds(0));
  EXPECT_EQ(ParseTimeout("99999999H"), nanoseconds::max());
}

TEST(Timeout, RefusesEverythingElse) {
  for (const char* text : {"", "1", "S", "1s", "-1S", "+1S", " 1S", "1S ", "1.5S", "123456789S", "1 S", "0x1S"}) {
    EXPECT_EQ(ParseTimeout(text), std::nullopt) << text;
  }
}

TEST(Timeout, FormatNeverPromisesLess) {
  for (const std::int64_t count :
       {0L, 1L, 999L, 99'999'999L, 100'000'000L, 100'000'001L, 123'456'789'012L, 9'000'000'000'000'000'000L}) {
    const auto back = ParseTimeout(FormatTimeout(nanoseconds(count)));
    ASSERT_TRUE(back) << count;
    EXPECT_GE(back->count(), count);
    EXPECT_LE(static_cast<double>(back->count()), static_cast<double>(count) * 1.0001 + 1);
  }
  EXPECT_EQ(FormatTimeout(nanoseconds(-5)), "0n");
}

TEST(Percent, RoundTripsAnyBytes) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  EXPECT_EQ(PercentDecode(PercentEncode(all)), all);
  EXPECT_EQ(PercentEncode("100% ok\n"), "100%25 ok%0A");
  EXPECT_EQ(PercentDecode("broken %zz %2"), "broken %zz %2");
}

TEST(Base64, RoundTripsEveryLength) {
  std::string bytes;
  for (int size = 0; size < 100; ++size) {
    const std::string coded = Base64Encode(bytes);
    EXPECT_EQ(coded.find('='), std::string::npos);
    EXPECT_EQ(Base64Decode(coded), bytes);
    EXPECT_EQ(Base64Decode(coded + std::string((4 - coded.size() % 4) % 4, '=')), bytes);
    bytes.push_back(static_cast<char>(size * 37));
  }
}

TEST(Base64, RefusesRubbish) {
  for (const char* text : {"a", "a===", "!!!!", "ab=c", "====", "aa a"})
    EXPECT_EQ(Base64Decode(text), std::nullopt) << text;
}

TEST(Metadata, ChecksKeysAndValues) {
  EXPECT_TRUE(CheckMetadata({{"a-key_1.x", "value"}, {"b-bin", std::string("\0\xff", 2)}}).ok());
  for (const Metadata& bad :
       {Metadata{{"", "v"}}, Metadata{{"Upper", "v"}}, Metadata{{"a b", "v"}}, Metadata{{"a", "\n"}},
        Metadata{{"a", "\xff"}}, Metadata{{":path", "v"}}, Metadata{{"grpc-status", "0"}}, Metadata{{"te", "v"}}}) {
    EXPECT_EQ(CheckMetadata(bad).code(), Code::kInvalidArgument) << bad.front().first;
  }
}

TEST(Metadata, DecodesListsOfBytes) {
  Metadata metadata;
  EXPECT_TRUE(AppendReceived("x-bin", "YWI, YWI=,", &metadata));
  EXPECT_EQ(metadata, (Metadata{{"x-bin", "ab"}, {"x-bin", "ab"}, {"x-bin", ""}}));
  EXPECT_FALSE(AppendReceived("x-bin", "?", &metadata));
}

TEST(Trailers, GiveStatuses) {
  EXPECT_TRUE(StatusFromTrailers("0", "ignored").ok());
  EXPECT_EQ(StatusFromTrailers("5", "a%20b").ToString(), "NOT_FOUND: a b");
  for (const char* text : {"", "17", "99", "-1", "x", "1000", "00000"})
    EXPECT_EQ(StatusFromTrailers(text, "").code(), Code::kUnknown) << text;
}

}  // namespace
}  // namespace mesh::rpc
