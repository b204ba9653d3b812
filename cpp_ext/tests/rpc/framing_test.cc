#include "rpc/framing.h"

#include <gtest/gtest.h>
#include <sys/uio.h>

#include <random>
#include <string>
#include <vector>

namespace mesh::rpc {
namespace {

constexpr std::size_t kNoLimit = 1UL << 31;

std::string Framed(const std::string& payload, std::uint32_t declared, char flag = 0) {
  std::string out(1, flag);
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(declared >> shift));
  return out + payload;
}

std::string Framed(const std::string& payload) { return Framed(payload, static_cast<std::uint32_t>(payload.size())); }

// Everything that the reader makes of `bytes`, given in parts of `part`.
Result<std::vector<std::string>> ReadAll(MessageReader* reader, std::string_view bytes, std::size_t part) {
  std::vector<std::string> messages;
  while (!bytes.empty()) {
    std::string_view now = bytes.substr(0, part);
    bytes.remove_prefix(now.size());
    while (!now.empty()) {
      Result<std::size_t> taken = reader->Consume(now);
      if (!taken.ok()) return taken.status();
      now.remove_prefix(taken.value());
      if (!reader->ready()) continue;
      Result<Slice> message = reader->Take();
      if (!message.ok()) return message.status();
      messages.emplace_back(message.value().view());
    }
  }
  return messages;
}

std::string Written(OutgoingMessages* messages, std::size_t frame_bytes, std::size_t write_bytes) {
  OutputQueue queue;
  std::string out;
  while (!messages->empty() || !queue.empty()) {
    if (!messages->empty()) messages->MoveTo(&queue, frame_bytes);
    iovec ranges[4];
    const int count = queue.Describe(ranges, 4);
    std::size_t left = write_bytes;
    for (int i = 0; i < count && left > 0; ++i) {
      const std::size_t part = std::min(left, ranges[i].iov_len);
      out.append(static_cast<const char*>(ranges[i].iov_base), part);
      left -= part;
    }
    queue.Drop(write_bytes - left);
  }
  return out;
}

TEST(MessageReader, CutsAnyParts) {
  const std::vector<std::string> expected = {"", "a", std::string(70'000, 'b'), "", std::string(300'000, 'c'), "d"};
  std::string bytes;
  for (const std::string& message : expected) bytes += Framed(message);
  for (const std::size_t part : {1UL, 2UL, 5UL, 7UL, 1000UL, 65'536UL, bytes.size()}) {
    MessageReader reader(kNoLimit);
    auto messages = ReadAll(&reader, bytes, part);
    ASSERT_TRUE(messages.ok()) << messages.status().ToString();
    EXPECT_EQ(messages.value(), expected);
    EXPECT_FALSE(reader.mid_message());
  }
}

TEST(MessageReader, NamesWhatIsWrong) {
  MessageReader flag(kNoLimit), compressed(kNoLimit), limit(10);
  EXPECT_EQ(ReadAll(&flag, Framed("", 0, 2), 100).status().code(), Code::kInternal);
  EXPECT_EQ(ReadAll(&compressed, Framed("x", 1, 1), 100).status().code(), Code::kInternal);
  const Status large = ReadAll(&limit, Framed("", 11), 100).status();
  EXPECT_EQ(large.ToString(), "RESOURCE_EXHAUSTED: received message of 11 bytes is larger than the limit of 10 bytes");
}

TEST(MessageReader, KnowsWhereTheStreamEnded) {
  MessageReader reader(kNoLimit);
  ASSERT_TRUE(reader.Consume(Framed("abc", 10)).ok());
  EXPECT_TRUE(reader.mid_message());
  EXPECT_EQ(reader.Truncated().message(), "the stream ended after 3 of 10 bytes of a message");
}

TEST(MessageReader, BudgetIsSharedAndGivenBack) {
  const auto budget = std::make_shared<ReceiveBudget>(1'000'000);
  const std::string first(600'000, 'x');
  {
    MessageReader one(kNoLimit, budget.get()), two(kNoLimit, budget.get());
    ASSERT_TRUE(one.Consume(Framed(first, 700'000)).ok());
    EXPECT_GT(budget->used(), 500'000UL);
    EXPECT_EQ(ReadAll(&two, Framed(first), first.size()).status().code(), Code::kResourceExhausted);
  }
  EXPECT_EQ(budget->used(), 0UL);
}

TEST(MessageReader, LargeMessagesStayCountedWhileTheyAreHeld) {
  auto budget = std::make_shared<ReceiveBudget>(1'000'000);
  MessageReader reader(kNoLimit, budget.get());
  ASSERT_TRUE(reader.Consume(Framed(std::string(600'000, 'x'))).ok());
  ASSERT_TRUE(reader.ready());
  Slice message = reader.TakePacked();
  const Slice part(message.owner(), message.data() + 10, 10);
  message = {};
  EXPECT_EQ(budget->used(), 600'000UL);
  MessageReader other(kNoLimit, budget.get());
  EXPECT_EQ(other.Consume(Framed(std::string(600'000, 'y'))).status().code(), Code::kResourceExhausted);
}

TEST(MessageReader, HeldMessagesMayOutliveTheirServer) {
  auto budget = std::make_shared<ReceiveBudget>(1'000'000);
  Slice message;
  {
    MessageReader reader(kNoLimit, budget.get());
    ASSERT_TRUE(reader.Consume(Framed(std::string(600'000, 'x'))).ok());
    message = reader.TakePacked();
  }
  const std::weak_ptr<ReceiveBudget> weak = budget;
  budget = nullptr;
  EXPECT_EQ(weak.lock()->used(), 600'000UL);
  message = {};
  EXPECT_TRUE(weak.expired());
}

TEST(MessageReader, SmallMessagesAreCountedWhileTheyAreIncomplete) {
  const auto budget = std::make_shared<ReceiveBudget>(1'000'000);
  MessageReader reader(kNoLimit, budget.get());
  const std::string bytes = Framed("abcdef");
  ASSERT_TRUE(reader.Consume(std::string_view(bytes).substr(0, 8)).ok());
  EXPECT_EQ(budget->used(), 6UL);
  ASSERT_TRUE(reader.Consume(std::string_view(bytes).substr(8)).ok());
  const Slice message = reader.TakePacked();
  EXPECT_EQ(message.view(), "abcdef");
  EXPECT_EQ(budget->used(), 0UL);
}

TEST(MessageReader, ALyingLengthReservesLittle) {
  const auto budget = std::make_shared<ReceiveBudget>(1UL << 31);
  MessageReader reader(kNoLimit, budget.get());
  ASSERT_TRUE(reader.Consume(Framed("x", 2'000'000'000)).ok());
  EXPECT_LE(budget->used(), 16'384UL);
}

TEST(OutgoingMessages, WriteWhatTheReaderReads) {
  std::mt19937 random(3);
  for (int turn = 0; turn < 200; ++turn) {
    OutgoingMessages messages;
    std::vector<std::string> expected;
    std::size_t total = 0;
    for (std::size_t count = random() % 5; count > 0; --count) {
      Message message;
      for (std::size_t slices = random() % 4; slices > 0; --slices)
        message.Append(std::string(random() % 9000, static_cast<char>(random())));
      expected.push_back(message.Flatten());
      total += message.size() + kPrefixBytes;
      ASSERT_TRUE(messages.Push(std::move(message), Encoding::kIdentity).ok());
    }
    EXPECT_EQ(messages.size(), total);
    MessageReader reader(kNoLimit);
    auto read = ReadAll(&reader, Written(&messages, 1 + random() % 20'000, 1 + random() % 5000), 4096);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read.value(), expected);
  }
}

TEST(OutgoingMessages, AStreamThatIsNeverEmptyDoesNotGrow) {
  OutgoingMessages messages;
  OutputQueue queue;
  std::string expected, out;
  for (int i = 0; i < 10'000; ++i) {
    expected += Framed(std::to_string(i));
    ASSERT_TRUE(messages.Push(Message(std::to_string(i)), Encoding::kIdentity).ok());
    if (messages.size() < 1000) continue;
    messages.MoveTo(&queue, messages.size() - 500);
    EXPECT_LT(messages.kept_pieces(), 1000U);
  }
  messages.MoveTo(&queue, messages.size());
  iovec range;
  ASSERT_EQ(queue.Describe(&range, 1), 1);
  EXPECT_EQ(std::string_view(static_cast<const char*>(range.iov_base), range.iov_len), expected);
}

TEST(OutputQueue, LargePiecesAreNotCopied) {
  const Slice slice = Slice::Own(std::string(OutputQueue::kCopyBelow, 'x'));
  OutputQueue queue;
  queue.Append("head");
  queue.Append(slice, slice.view());
  queue.Append("tail");
  iovec ranges[4];
  ASSERT_EQ(queue.Describe(ranges, 4), 3);
  EXPECT_EQ(ranges[1].iov_base, slice.data());
  queue.Drop(5);
  ASSERT_EQ(queue.Describe(ranges, 4), 2);
  EXPECT_EQ(ranges[0].iov_base, slice.data() + 1);
}

class Compression : public testing::TestWithParam<Encoding> {};

TEST_P(Compression, RoundTripsAndIsBounded) {
  for (const std::size_t size : {0UL, 1UL, 100UL, 1'000'000UL}) {
    Message message;
    message.Append(std::string(size / 2, 'a'));
    message.Append(std::string(size - size / 2, 'b'));
    const Result<std::string> packed = Compress(GetParam(), message);
    ASSERT_TRUE(packed.ok());
    const Result<Slice> back = Decompress(GetParam(), packed.value(), size);
    ASSERT_TRUE(back.ok()) << back.status().ToString();
    EXPECT_EQ(back.value().view(), message.Flatten());
    if (size == 0) continue;
    EXPECT_EQ(Decompress(GetParam(), packed.value(), size - 1).status().code(), Code::kResourceExhausted);
    EXPECT_EQ(Decompress(GetParam(), packed.value().substr(0, packed.value().size() - 1), size).status().code(),
              Code::kInternal);
    EXPECT_EQ(Decompress(GetParam(), packed.value() + "x", size).status().code(), Code::kInternal);
  }
}

TEST_P(Compression, GoesInStepsAndIsCounted) {
  constexpr std::size_t kSize = 20'000'000, kStep = 1'000'000;
  Message message(std::string(kSize, 'a'));
  const Result<std::string> packed = Compress(GetParam(), message);
  ASSERT_TRUE(packed.ok());
  const auto budget = std::make_shared<ReceiveBudget>(3 * kSize);
  Decompression one(GetParam(), Slice::Own(packed.value()), kSize, budget.get());
  int steps = 0;
  for (bool done = false; !done; ++steps) {
    Result<bool> outcome = one.Run(kStep);
    ASSERT_TRUE(outcome.ok()) << outcome.status().ToString();
    EXPECT_LE(one.work_done(), 2 * kStep);
    done = outcome.value();
  }
  EXPECT_GE(steps, 20);
  {
    const Slice slice = one.Take();
    EXPECT_EQ(slice.view(), message.Flatten());
    EXPECT_EQ(budget->used(), kSize);
  }
  EXPECT_EQ(budget->used(), 0U);
  const auto small = std::make_shared<ReceiveBudget>(kSize / 2);
  Decompression two(GetParam(), Slice::Own(packed.value()), kSize, small.get());
  EXPECT_EQ(two.Run(2 * kSize).status().code(), Code::kResourceExhausted);
  EXPECT_LE(small->used(), kSize / 2);
}

INSTANTIATE_TEST_SUITE_P(All, Compression, testing::Values(Encoding::kGzip, Encoding::kDeflate));

TEST(Encodings, AreNegotiated) {
  EXPECT_TRUE(Accepts("identity, deflate, gzip", Encoding::kGzip));
  EXPECT_TRUE(Accepts("", Encoding::kIdentity));
  EXPECT_FALSE(Accepts("identity,xgzip", Encoding::kGzip));
  EXPECT_EQ(ParseEncoding("br"), std::nullopt);
}

}  // namespace
}  // namespace mesh::rpc
