// Which broker of an application a proxy asks, and what both say to each other.
#include "proxy/brokers.h"

#include <gtest/gtest.h>

#include <protozero/pbf_writer.hpp>
#include <string>
#include <utility>
#include <vector>

#include "proxy/broker_messages.h"

namespace mesh::proxy {
namespace {

Endpoint Broker(const std::string& id, std::vector<std::string> pulled, std::int64_t revision = 1) {
  Endpoint made;
  made.id = id;
  made.address = "127.0.0.1:1";
  made.role = kBrokerRole;
  made.deployment = "queue";
  made.before = {"reader", "other"};
  made.journals = {"j-" + id};
  made.pulled = std::move(pulled);
  made.revision = revision;
  made.ready = true;
  return made;
}

class BrokersTest : public testing::Test {
 protected:
  std::string Taker(const std::vector<std::string>& bound = {}, const std::set<std::string>& left = {},
                    const std::string& deployment = "reader") {
    const auto found = brokers_.Taker(deployment, bound, left, &chance_);
    return found == nullptr ? "" : found->endpoint.id;
  }

  Chance chance_;
  Brokers brokers_{[](const Endpoint& endpoint) { return rpc::Channel::Create(endpoint.address, {}); }};
};

TEST_F(BrokersTest, TheNewestOfADeploymentSaysWhatGoesThroughIt) {
  EXPECT_FALSE(brokers_.Pulls("reader"));
  Endpoint direct = Broker("a", {"reader"});
  direct.role = "direct";
  brokers_.SetEndpoints({direct});
  EXPECT_FALSE(brokers_.Pulls("reader"));
  brokers_.SetEndpoints({Broker("a", {"reader"})});
  EXPECT_TRUE(brokers_.Pulls("reader"));
  EXPECT_FALSE(brokers_.Pulls("other"));
  brokers_.SetEndpoints({Broker("a", {"reader"}), Broker("b", {}, 2)});
  EXPECT_FALSE(brokers_.Pulls("reader"));
  brokers_.SetEndpoints({Broker("a", {"reader"}, 2), Broker("b", {}, 1)});
  EXPECT_TRUE(brokers_.Pulls("reader"));
}

TEST_F(BrokersTest, NobodyWaitsForOneThatTakesNothing) {
  Endpoint drained = Broker("a", {"reader"});
  drained.drained = true;
  brokers_.SetEndpoints({drained});
  EXPECT_FALSE(brokers_.Pulls("reader"));
  Endpoint leaving = Broker("a", {"reader"});
  leaving.ready = false;
  brokers_.SetEndpoints({leaving});
  EXPECT_FALSE(brokers_.Pulls("reader"));
  EXPECT_EQ(Taker(), "");
}

TEST_F(BrokersTest, OneThatMayHaveItIsAskedAgainAndOneThatHasNotIsLeft) {
  brokers_.SetEndpoints({Broker("a", {}), Broker("b", {})});
  EXPECT_EQ(Taker({}, {"a"}), "b");
  EXPECT_NE(Taker({}, {"a", "b"}), "") << "where there is no other";
  EXPECT_EQ(Taker({"j-a"}, {}), "a");
  EXPECT_EQ(Taker({"j-a", "j-b"}, {}), "") << "nobody serves both";
  EXPECT_EQ(Taker({}, {}, "unknown"), "");
  Endpoint drained = Broker("a", {});
  drained.drained = true;
  brokers_.SetEndpoints({drained});
  EXPECT_EQ(Taker(), "");
  EXPECT_EQ(Taker({"j-a"}), "a") << "it knows the key";
  ASSERT_NE(brokers_.Home("j-a"), nullptr);
  EXPECT_EQ(brokers_.Home("j-b"), nullptr);
}

// ---------------------------------------------------------------- messages

std::string Item(std::int32_t state, const std::string& result, const std::string& reason = "") {
  std::string item;
  protozero::pbf_writer out(item);
  out.add_string(2, "j.1");
  out.add_enum(3, state);
  out.add_string(4, "reader");
  out.add_int32(8, 3);
  if (!reason.empty()) out.add_string(10, reason);
  if (!result.empty()) out.add_message(15, result);
  std::string reply;
  protozero::pbf_writer(reply).add_message(2, item);
  return reply;
}

ItemEnd EndOf(const std::string& reply) {
  const Result<Followed> read = ParseFollowed(rpc::Slice::Own(reply));
  EXPECT_TRUE(read.ok()) << read.status().ToString();
  const auto* const end = std::get_if<ItemEnd>(&read.value());
  EXPECT_NE(end, nullptr);
  return end == nullptr ? ItemEnd{} : *end;
}

TEST(BrokerMessagesTest, AnEndIsTheAnswerOrTheErrorThatStandsForIt) {
  std::string result;
  protozero::pbf_writer(result).add_bytes(1, "answer");
  const ItemEnd good = EndOf(Item(3, result));
  ASSERT_TRUE(good.failure.ok());
  ASSERT_EQ(good.answers.size(), 1U);
  EXPECT_EQ(good.answers[0].view(), "answer");

  std::string failure;
  protozero::pbf_writer writer(failure);
  writer.add_int32(1, 3);
  writer.add_string(2, "not this one");
  std::string failed;
  protozero::pbf_writer(failed).add_message(3, failure);
  EXPECT_EQ(EndOf(Item(4, failed)).failure.ToString(), "INVALID_ARGUMENT: not this one");

  EXPECT_EQ(EndOf(Item(5, "", "it died")).failure.ToString(),
            "UNAVAILABLE: the item j.1 of reader was given up after 3 attempts: it died");
  EXPECT_EQ(EndOf(Item(6, "", "cancelled by its client")).failure.code(), Code::kCancelled);
  EXPECT_EQ(EndOf(Item(6, "", "whoever waited for it has gone")).failure.code(), Code::kUnavailable);
  EXPECT_EQ(EndOf(Item(7, "")).failure.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(EndOf(Item(3, "")).failure.code(), Code::kDataLoss);
}

TEST(BrokerMessagesTest, OtherBytesAreRefused) {
  for (const std::string bytes : {"\x12\x7f", "\x1a\x05x", "\x12\x03\x7a\x7f\x01"}) {
    const Result<Followed> read = ParseFollowed(rpc::Slice::Own(bytes));
    EXPECT_EQ(read.status().code(), Code::kDataLoss);
  }
  std::string part;
  protozero::pbf_writer(part).add_message(1, std::string());
  EXPECT_TRUE(std::holds_alternative<PartOfResult>(ParseFollowed(rpc::Slice::Own(part)).value()));
}

TEST(BrokerMessagesTest, ASubmissionCarriesTheRequestAsItIs) {
  Submission made;
  made.deployment = "reader";
  made.infer.Append(std::string("tensors"));
  made.metadata = {{"traceparent", "00-a"}, {"x-text", std::string("\xff\x00", 2)}};
  made.key = "k";
  made.new_key = true;
  made.deadline_s = 1.5;
  made.result_ttl_s = 120.0;
  std::string request;
  protozero::pbf_writer body(request);
  body.add_bytes(1, "tensors");
  {
    protozero::pbf_writer entry(body, 3);
    entry.add_string(1, "traceparent");
    entry.add_string(2, "00-a");
  }
  std::string wanted;
  protozero::pbf_writer out(wanted);
  out.add_string(1, "reader");
  out.add_string(4, "k");
  out.add_double(6, 1.5);
  out.add_double(10, 120.0);
  out.add_bool(11, true);
  out.add_message(2, request);
  EXPECT_EQ(EncodeSubmission(made).Flatten(), wanted);
}

TEST(BrokerMessagesTest, NothingThatAuthenticatesTheClientIsKept) {
  Submission plain;
  plain.deployment = "reader";
  plain.metadata = {{"user", "alice"}, {"x-request-id", "7"}};
  Submission full = plain;
  for (const char* name :
       {"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-auth-token", "user-agent",
        "accept-encoding", "te", "content-type", "grpc-previous-rpc-attempts", "grpc-trace-bin", "token-bin"}) {
    full.metadata.insert(full.metadata.begin(), {name, "secret"});
  }
  EXPECT_EQ(EncodeSubmission(full).Flatten(), EncodeSubmission(plain).Flatten());
  EXPECT_NE(EncodeSubmission(plain).Flatten().find("alice"), std::string::npos);
}

}  // namespace
}  // namespace mesh::proxy
