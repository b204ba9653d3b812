#include "rpc/receive_buffer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <string>

#include "common/large_block.h"
#include "common/poll.h"
#include "common/sanitizers.h"

namespace mesh::rpc {
namespace {

using Outcome = ReceiveBuffer::Outcome;
constexpr std::size_t kMiB = 1UL << 20;

std::string Text(std::size_t size) {
  std::string text(size, 'x');
  for (std::size_t at = 0; at < size; ++at) text[at] = static_cast<char>('a' + at % 23);
  return text;
}

// As if the text came from a socket.
Slice Receive(const std::string& text, std::size_t step, std::size_t most, ReceiveBudget* budget) {
  ReceiveBuffer buffer(budget);
  for (std::size_t at = 0; at < text.size(); at += step) {
    const std::size_t part = std::min(step, text.size() - at);
    EXPECT_EQ(buffer.Grow(at + part, most), Outcome::kOk);
    std::memcpy(buffer.data() + at, text.data() + at, part);
  }
  return buffer.Detach(text.size());
}

// One block waits for its next use, and stays.
class IdleBlockTest : public testing::Test {
 protected:
  static constexpr std::size_t kIdle = 8 * kMiB;

  void SetUp() override {
    if (!kPoolsMemory) GTEST_SKIP() << "sanitizers see every allocation";
    SetLargeBlockWait(std::chrono::milliseconds(0));
    ASSERT_TRUE(
        PollUntil(std::chrono::steady_clock::now() + std::chrono::seconds(60), [] { return IdleLargeBytes() == 0; }));
    SetLargeBlockWait(std::chrono::hours(1));
    FreeLarge(AllocateLarge(kIdle, kIdle));
  }
  void TearDown() override { SetLargeBlockWait(std::chrono::milliseconds(500)); }
};

TEST(ReceiveBufferTest, KeepsWhatCameWhileItGrows) {
  const auto budget = std::make_shared<ReceiveBudget>(1UL << 30);
  for (const std::size_t size : {1UL, 70'000UL, kLargeBytes - 1, kLargeBytes, kLargeBytes + 1, 5 * kMiB + 17}) {
    for (const std::size_t most : {size, size + 1, 40 * kMiB}) {
      const std::string text = Text(size);
      const Slice slice = Receive(text, 65'537, most, budget.get());
      EXPECT_EQ(slice.view(), text);
      EXPECT_LE(budget->used(), std::max(size, kLargeBytes));
    }
  }
  EXPECT_EQ(budget->used(), 0U);
}

TEST(ReceiveBufferTest, WithoutABudgetToo) {
  const std::string text = Text(3 * kMiB);
  EXPECT_EQ(Receive(text, kMiB / 2, text.size(), nullptr).view(), text);
}

TEST_F(IdleBlockTest, IsCountedAsAWhole) {
  const auto budget = std::make_shared<ReceiveBudget>(16 * kMiB);
  ReceiveBuffer first(budget.get());
  ASSERT_EQ(first.Grow(kMiB, 20 * kMiB), Outcome::kOk);
  EXPECT_EQ(first.capacity(), kIdle);
  EXPECT_EQ(budget->used(), kIdle);
  first.Release();
  EXPECT_EQ(budget->used(), 0U);
}

TEST_F(IdleBlockTest, LeavesHalfOfTheBudget) {
  const auto budget = std::make_shared<ReceiveBudget>(16 * kMiB - 1);
  ReceiveBuffer buffer(budget.get());
  ASSERT_EQ(buffer.Grow(kMiB, 20 * kMiB), Outcome::kOk);
  EXPECT_EQ(buffer.capacity(), kMiB);
  EXPECT_EQ(budget->used(), kMiB);
  EXPECT_EQ(IdleLargeBytes(), kIdle - kMiB);
  EXPECT_EQ(buffer.Grow(16 * kMiB, 20 * kMiB), Outcome::kBudgetFull);
}

}  // namespace
}  // namespace mesh::rpc
