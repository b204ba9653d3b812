#include "registry/etcd_wire.h"

#include <gtest/gtest.h>

#include <protozero/pbf_writer.hpp>
#include <random>

namespace mesh::registry::etcd {
namespace {

TEST(PrefixEndTest, IsTheNextPrefix) {
  EXPECT_EQ(PrefixEnd("/mesh/"), "/mesh0");
  EXPECT_EQ(PrefixEnd("a\xff"), "b");
  EXPECT_EQ(PrefixEnd("\xff\xff"), std::string(1, '\0'));
  EXPECT_EQ(PrefixEnd(""), std::string(1, '\0'));
}

TEST(EtcdWireTest, ReadsAKeepalivesAnswerWithNegativeAndLargeIds) {
  std::string bytes;
  protozero::pbf_writer writer(bytes);
  writer.add_int64(2, 7587870310112345678);
  writer.add_int64(3, 5);
  writer.add_string(99, "from a newer etcd");
  const auto answer = DecodeLeaseKeepAlive(bytes);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer.value().id, 7587870310112345678);
  EXPECT_EQ(answer.value().ttl_s, 5);
}

TEST(EtcdWireTest, RubbishIsAnErrorOrEmptyButNeverACrash) {
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes(random() % 64, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    for (const Status& status : {DecodeRange(bytes).status(), DecodeWatch(bytes).status(), DecodeTxn(bytes).status(),
                                 DecodeLeaseGrant(bytes).status(), DecodeToken(bytes).status()}) {
      EXPECT_TRUE(status.ok() || status.code() == Code::kDataLoss);
    }
  }
}

TEST(EtcdWireTest, TruncatedAnswersAreDataLoss) {
  std::string bytes;
  protozero::pbf_writer(bytes).add_bytes(2, std::string(40, 'k'));
  EXPECT_EQ(DecodeRange(std::string_view(bytes).substr(0, 20)).status().code(), Code::kDataLoss);
}

}  // namespace
}  // namespace mesh::registry::etcd
