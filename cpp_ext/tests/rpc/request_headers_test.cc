#include "rpc/request_headers.h"

#include <gtest/gtest.h>

#include "rpc/token_bucket.h"

namespace mesh::rpc {
namespace {

constexpr std::size_t kLimit = 4096;

RequestHeaders Good() {
  RequestHeaders headers;
  headers.Add(":method", "POST", kLimit);
  headers.Add(":path", "/a.B/C", kLimit);
  headers.Add("te", "trailers", kLimit);
  headers.Add("content-type", "application/grpc+proto", kLimit);
  return headers;
}

TEST(RequestHeaders, GoodOnesPass) {
  RequestHeaders headers = Good();
  headers.Add("grpc-timeout", "2S", kLimit);
  headers.Add("grpc-encoding", "gzip", kLimit);
  headers.Add("grpc-accept-encoding", "identity, gzip", kLimit);
  headers.Add("x-own", "1", kLimit);
  EXPECT_FALSE(headers.Check(kLimit));
  EXPECT_EQ(headers.path(), "/a.B/C");
  EXPECT_EQ(headers.timeout(), std::chrono::seconds(2));
  EXPECT_EQ(headers.encoding(), Encoding::kGzip);
  EXPECT_TRUE(headers.accepts_gzip());
  EXPECT_FALSE(headers.accepts_deflate());
  EXPECT_EQ(headers.metadata(), (Metadata{{"x-own", "1"}}));
}

TEST(RequestHeaders, CountBeyondTheLimitWithoutKeeping) {
  RequestHeaders headers = Good();
  for (int i = 0; i < 100'000; ++i) headers.Add("x-bomb", std::string(100, 'v'), kLimit);
  EXPECT_LT(headers.metadata().size(), 40U);
  const auto fault = headers.Check(kLimit);
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->status.code(), Code::kResourceExhausted);
  EXPECT_NE(fault->status.message().find("4096"), std::string::npos);
}

TEST(RequestHeaders, EmptyOnesAreRefused) {
  const auto fault = RequestHeaders().Check(kLimit);
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->http_status, "405");
}

TEST(TokenBucket, AllowsBurstsAndRefills) {
  TokenBucket bucket(3, 10);
  auto now = std::chrono::steady_clock::time_point(std::chrono::hours(1));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(bucket.Take(now));
  EXPECT_FALSE(bucket.Take(now));
  now += std::chrono::milliseconds(250);
  EXPECT_TRUE(bucket.Take(now));
  EXPECT_TRUE(bucket.Take(now));
  EXPECT_FALSE(bucket.Take(now));
}

}  // namespace
}  // namespace mesh::rpc
