#include "broker/messages.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "pull_messages.h"

namespace mesh::broker {
namespace {

Result<std::vector<Reply>> Parse(std::string bytes) { return ParseReplies(rpc::Slice::Own(std::move(bytes))); }

std::vector<Heard> Read(const rpc::Message& message) {
  std::vector<Heard> heard;
  const std::string bytes = message.Flatten();
  ReadRequests(protozero::pbf_reader(bytes), &heard);
  return heard;
}

TEST(MessagesTest, RepliesComeInTheirOrder) {
  const WorkText work{{"j.7", 3}, "request", "", {{"traceparent", "00-1"}, {"b", ""}}, 2.5, true};
  const auto replies = Parse(With(WelcomeText(15.0, {{"j.1", 2}}, 1000),
                                  {work.Encode(), StopText({"j.2", 1}, "late"), StoredText({"j.3", 9})}));
  ASSERT_TRUE(replies.ok());
  ASSERT_EQ(replies.value().size(), 4U);
  const auto& welcome = std::get<Welcome>(replies.value()[0]);
  EXPECT_EQ(welcome.lease_s, 15.0);
  EXPECT_EQ(welcome.max_result_bytes, 1000U);
  ASSERT_EQ(welcome.lost.size(), 1U);
  EXPECT_EQ(welcome.lost[0].attempt, 2);
  const auto& read = std::get<Work>(replies.value()[1]);
  EXPECT_TRUE(read.key == (ItemKey{"j.7", 3}));
  EXPECT_EQ(read.body, Body::kInfer);
  EXPECT_EQ(read.infer.view(), "request");
  EXPECT_EQ(read.metadata, (rpc::Metadata{{"b", ""}, {"traceparent", "00-1"}}));
  EXPECT_EQ(read.left_s, 2.5);
  EXPECT_TRUE(read.wants_parts);
  EXPECT_GT(read.bytes, 7U);
  EXPECT_EQ(std::get<Stop>(replies.value()[2]).reason, "late");
  EXPECT_EQ(std::get<Stored>(replies.value()[3]).key.attempt, 9);
}

TEST(MessagesTest, AHttpCallAndNothingAreToldApart) {
  const auto http = Parse(WorkText{{"j.1", 1}, "", "call"}.Encode());
  ASSERT_TRUE(http.ok());
  EXPECT_EQ(std::get<Work>(http.value()[0]).body, Body::kHttp);
  const auto empty = Parse(ReplyText(2, KeyText({"j.1", 1})));
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(std::get<Work>(empty.value()[0]).body, Body::kNothing);
}

TEST(MessagesTest, ALargeRequestIsNotCopiedAndASmallOneOfManyIs) {
  const std::string large(100'000, 'x');
  const rpc::Slice bytes =
      rpc::Slice::Own(With(WorkText{{"j.1", 1}, large, ""}.Encode(), {WorkText{{"j.2", 1}, "small", ""}.Encode()}));
  const auto replies = ParseReplies(bytes);
  ASSERT_TRUE(replies.ok());
  EXPECT_EQ(std::get<Work>(replies.value()[0]).infer.owner(), bytes.owner());
  EXPECT_NE(std::get<Work>(replies.value()[1]).infer.owner(), bytes.owner());
}

TEST(MessagesTest, WhatIsNotKnownIsPassedOver) {
  const auto replies = Parse(With(ReplyText(9, "new"), {With(StoredText({"j.1", 1}), {StoredText({"deep", 1})})}));
  ASSERT_TRUE(replies.ok());
  ASSERT_EQ(replies.value().size(), 2U) << "what those hold that go along is ignored";
  EXPECT_TRUE(std::holds_alternative<std::monostate>(replies.value()[0]));
  EXPECT_EQ(Parse("").value().size(), 1U);
}

TEST(MessagesTest, GarbageIsAnErrorAndNotACrash) {
  EXPECT_EQ(Parse("\x0a\xff").status().code(), Code::kDataLoss);
  EXPECT_EQ(Parse("no message").status().code(), Code::kDataLoss);
  std::mt19937 random(17);
  const std::string good = With(WelcomeText(1.0), {WorkText{{"j.1", 1}, "abc", "", {{"k", "v"}}, 1.0, true}.Encode()});
  int refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = good;
    for (int change = 0; change < 3; ++change) bytes[random() % bytes.size()] = static_cast<char>(random());
    bytes.resize(random() % (bytes.size() + 1));
    refused += Parse(bytes).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 1000);
}

TEST(MessagesTest, WhatAReplicaSays) {
  const Heard hello = Read(EncodeHello({"r-0", "process", "digits", 2, 3}, {{"j.1", 4}, {"j.2", 1}})).at(0);
  EXPECT_EQ(hello.kind, Heard::Kind::kHello);
  EXPECT_EQ(hello.replica + hello.process + hello.deployment, "r-0processdigits");
  ASSERT_EQ(hello.held.size(), 2U);
  EXPECT_EQ(hello.held[0].attempt, 4);
  EXPECT_EQ(Read(EncodeCredits(-3)).at(0).credits, -3);
  const Heard progress = Read(EncodeProgress({"j.1", 4}, {{0, "a"}, {5, "b"}})).at(0);
  EXPECT_EQ(progress.key.item, "j.1");
  ASSERT_EQ(progress.parts.size(), 2U);
  EXPECT_EQ(progress.parts[1].number, 5);
  EXPECT_EQ(progress.parts[1].body, "b");
}

TEST(MessagesTest, WhatCameOfAnItem) {
  Outcome one;
  one.kind = Outcome::Kind::kInfer;
  one.answers.emplace_back(std::string(5000, 'a'));
  EXPECT_EQ(Read(EncodeDone({"j.1", 1}, one)).at(0).infer, std::string(5000, 'a'));
  Outcome many;
  many.kind = Outcome::Kind::kInfers;
  for (const char* answer : {"x", "", "z"}) many.answers.emplace_back(std::string(answer));
  EXPECT_EQ(Read(EncodeDone({"j.1", 1}, many)).at(0).infers, (std::vector<std::string>{"x", "", "z"}));
  Outcome failed;
  failed.failure = {Code::kInvalidArgument, "wrong"};
  const Heard failure = Read(EncodeDone({"j.1", 2}, failed)).at(0);
  EXPECT_EQ(std::pair(failure.failure, failure.text), std::pair(3, std::string("wrong")));
  EXPECT_EQ(failure.key.attempt, 2);
  Outcome returned;
  returned.kind = Outcome::Kind::kReturned;
  returned.failure = {Code::kUnavailable, "leaves"};
  returned.untouched = true;
  const Heard again = Read(EncodeDone({"j.1", 2}, returned)).at(0);
  EXPECT_EQ(again.again, 14);
  EXPECT_TRUE(again.untouched);
}

TEST(MessagesTest, SeveralGoTogetherUpToALimit) {
  std::vector<rpc::Message> said;
  said.reserve(10);
  for (int i = 0; i < 10; ++i) {
    said.push_back(EncodeProgress({"j." + std::to_string(i), 1}, {{0, std::string(100, 'p')}}));
  }
  const std::vector<rpc::Message> messages = Together(said, 500);
  EXPECT_EQ(messages.size(), 3U);
  std::vector<std::string> items;
  for (const rpc::Message& message : messages) {
    EXPECT_LE(message.size(), 520U);
    for (const Heard& heard : Read(message)) items.push_back(heard.key.item);
  }
  ASSERT_EQ(items.size(), 10U);
  EXPECT_EQ(items.front() + items.back(), "j.0j.9");
  EXPECT_TRUE(Together({}, 500).empty());
}

TEST(MessagesTest, TheAnswerInsideOfAStreamedOne) {
  std::string encoded;
  protozero::pbf_writer(encoded).add_message(2, std::string("answer"));
  EXPECT_EQ(StreamedAnswer(rpc::Slice::Own(encoded)).value().view(), "answer");
  EXPECT_TRUE(StreamedAnswer(rpc::Slice::Own("")).value().empty());
  EXPECT_FALSE(StreamedAnswer(rpc::Slice::Own("\x12\xff")).ok());
}

}  // namespace
}  // namespace mesh::broker
