#include "ingress/trace_context.h"

#include <gtest/gtest.h>

#include <string>

namespace mesh::ingress {
namespace {

const std::string kTrace = "0af7651916cd43dd8448eb211c80319c";
const std::string kSpan = "b7ad6b7169203331";
const std::string kGood = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

// The header with one part of it changed.
std::string With(std::size_t place, const std::string& part) {
  return std::string(kGood).replace(place, part.size(), part);
}

TEST(TraceContextTest, TakesWhatIsValid) {
  EXPECT_TRUE(IsTraceParent(kGood));
  EXPECT_TRUE(IsTraceParent(With(53, "00"))) << "not sampled";
  EXPECT_TRUE(IsTraceParent(With(0, "cc"))) << "a later version";
  EXPECT_TRUE(IsTraceParent(With(0, "cc").append("-what-comes"))) << "a later version with more";
}

TEST(TraceContextTest, RefusesEverythingElse) {
  for (const std::string& text :
       {std::string(), std::string("00"), kGood.substr(1), std::string(kGood).append("0"),
        std::string(kGood).append("-more"), With(0, "ff"), With(0, "0g"), With(3, std::string(32, '0')),
        With(36, std::string(16, '0')), With(53, "0x"), With(2, "_"), With(35, "_"), With(52, "_"),
        With(3, "0AF7651916CD43DD8448EB211C80319C"), With(0, "cc").append(".x"), std::string(55, '-'),
        std::string(55, '\0')}) {
    EXPECT_FALSE(IsTraceParent(text)) << text;
  }
}

TEST(TraceContextTest, OfMetadata) {
  const rpc::Metadata metadata{{"a", "b"}, {"tracestate", "x=1"}, {"traceparent", kGood}};
  const TraceContext context = TraceContextOf(metadata);
  EXPECT_FALSE(context.empty());
  EXPECT_EQ(context.trace_id(), kTrace);
  EXPECT_EQ(context.parent_id(), kSpan);
  EXPECT_EQ(context.tracestate, "x=1");
}

TEST(TraceContextTest, AbsentMalformedAndTwiceAreTheSame) {
  for (const rpc::Metadata& metadata : {rpc::Metadata(), rpc::Metadata{{"tracestate", "x=1"}},
                                        rpc::Metadata{{"traceparent", "00-1-2-3"}, {"tracestate", "x=1"}},
                                        rpc::Metadata{{"traceparent", kGood}, {"traceparent", kGood}}}) {
    const TraceContext context = TraceContextOf(metadata);
    EXPECT_TRUE(context.empty());
    EXPECT_TRUE(context.tracestate.empty());
    EXPECT_TRUE(context.trace_id().empty());
    EXPECT_TRUE(context.parent_id().empty());
  }
}

}  // namespace
}  // namespace mesh::ingress
