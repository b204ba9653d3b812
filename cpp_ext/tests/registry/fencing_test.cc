#include "registry/fencing.h"

#include <gtest/gtest.h>

namespace mesh::registry {
namespace {

etcd::KeyValue Existing(const char* value, std::int64_t lease) {
  etcd::KeyValue kv;
  kv.value = value;
  kv.lease = lease;
  kv.mod_revision = 7;
  return kv;
}

TEST(GenerationTest, ReadsStringsNumbersAndRubbish) {
  EXPECT_EQ(GenerationOf(R"({"generation":"12"})"), 12);
  EXPECT_EQ(GenerationOf(R"({"generation":12})"), 12);
  EXPECT_EQ(GenerationOf(R"({})"), 0);
  EXPECT_EQ(GenerationOf("rubbish"), 0);
  EXPECT_EQ(GenerationOf(R"({"generation":"twelve"})"), 0);
}

TEST(OwnershipTest, ANewerGenerationIsNotOverwritten) {
  const Ownership fresh;
  EXPECT_NE(fresh.WhyNot(Existing(R"({"generation":"3"})", 9), R"({"generation":"2"})").find("generation 3"),
            std::string::npos);
}

TEST(OwnershipTest, AFirstRegistrationReplacesOlderAndEqualGenerations) {
  const Ownership fresh;
  EXPECT_EQ(fresh.WhyNot(Existing(R"({"generation":"1"})", 9), R"({"generation":"2"})"), "");
  EXPECT_EQ(fresh.WhyNot(Existing(R"({"generation":"2"})", 9), R"({"generation":"2"})"), "");
  EXPECT_EQ(fresh.WhyNot(Existing("rubbish", 0), R"({"generation":"2"})"), "");
}

TEST(OwnershipTest, OnceReplacedByAnEqualItStaysOut) {
  Ownership ownership;
  ownership.Held(5);
  ownership.Wrote(R"({"generation":"2","pid":"1"})");
  EXPECT_NE(ownership.WhyNot(Existing(R"({"generation":"2","pid":"2"})", 6), R"({"generation":"2","pid":"1"})"), "");
  EXPECT_EQ(ownership.WhyNot(Existing(R"({"generation":"1","pid":"2"})", 6), R"({"generation":"2","pid":"1"})"), "");
}

TEST(OwnershipTest, OwnLeaseAndOwnTextAreOurs) {
  Ownership ownership;
  ownership.Held(5);
  ownership.Wrote(R"({"generation":"2","pid":"1"})");
  EXPECT_EQ(ownership.WhyNot(Existing(R"({"generation":"9"})", 5), R"({"generation":"2"})"), "");
  EXPECT_EQ(ownership.WhyNot(Existing(R"({"generation":"2","pid":"1"})", 77), R"({"generation":"2","pid":"1"})"), "");
}

}  // namespace
}  // namespace mesh::registry
