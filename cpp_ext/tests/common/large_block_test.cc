#include "common/large_block.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "common/block_pool.h"
#include "common/poll.h"
#include "common/sanitizers.h"

namespace mesh {
namespace {

constexpr std::size_t kMiB = 1UL << 20;

bool Holds(const LargeBlock& block, std::size_t size, char what) {
  for (std::size_t at = 0; at < size; at += 997) {
    if (block.data[at] != what) return false;
  }
  return block.data[size - 1] == what;
}

bool NoneIsIdle() {
  return PollUntil(std::chrono::steady_clock::now() + std::chrono::seconds(60), [] { return IdleLargeBytes() == 0; });
}

// Begins without idle blocks, and then they stay.
class LargeBlockTest : public testing::Test {
 protected:
  void SetUp() override {
    SetLargeBlockWait(std::chrono::milliseconds(0));
    ASSERT_TRUE(NoneIsIdle());
    SetLargeBlockWait(std::chrono::hours(1));
  }
  void TearDown() override { SetLargeBlockWait(std::chrono::milliseconds(500)); }
};

TEST_F(LargeBlockTest, TheNextOneUsesThePagesOfOneThatWasFreed) {
  const LargeBlock first = AllocateLarge(kMiB, kMiB);
  EXPECT_EQ(first.size, kMiB);
  FreeLarge(first);
  EXPECT_EQ(IdleLargeBytes(), kMiB);
  const LargeBlock second = AllocateLarge(kMiB, kMiB);
  EXPECT_EQ(second.data, first.data);
  EXPECT_EQ(IdleLargeBytes(), 0U);
  FreeLarge(second);
}

TEST_F(LargeBlockTest, OneThatGrowsTakesWhatThereIs) {
  FreeLarge(AllocateLarge(4 * kMiB, 4 * kMiB));
  const LargeBlock whole = AllocateLarge(kLargeBytes, 10 * kMiB);
  EXPECT_EQ(whole.size, 4 * kMiB);
  FreeLarge(whole);
  const LargeBlock part = AllocateLarge(kLargeBytes, kMiB);
  EXPECT_EQ(part.size, kMiB);
  EXPECT_EQ(IdleLargeBytes(), 3 * kMiB) << "the rest is there for others";
  const LargeBlock rest = AllocateLarge(3 * kMiB, 3 * kMiB);
  EXPECT_EQ(rest.data, part.data + kMiB);
  std::memset(part.data, 1, part.size);
  std::memset(rest.data, 2, rest.size);
  EXPECT_TRUE(Holds(part, part.size, 1));
  FreeLarge(part);
  FreeLarge(rest);
}

TEST_F(LargeBlockTest, AFewPagesAreNotWorthBeingMoved) {
  FreeLarge(AllocateLarge(kMiB, kMiB));
  const LargeBlock large = AllocateLarge(10 * kMiB, 10 * kMiB);
  EXPECT_EQ(IdleLargeBytes(), kMiB);
  FreeLarge(large);
}

TEST_F(LargeBlockTest, ResizingKeepsTheBytes) {
  LargeBlock block = AllocateLarge(kLargeBytes + 1, kLargeBytes + 1);
  std::memset(block.data, 7, block.size);
  block = {ResizeLarge(block, 10 * kMiB + 5), 10 * kMiB + 5};
  ASSERT_NE(block.data, nullptr);
  EXPECT_TRUE(Holds(block, kLargeBytes + 1, 7));
  std::memset(block.data, 8, block.size);
  EXPECT_EQ(ResizeLarge(block, 2 * kMiB), block.data);
  block.size = 2 * kMiB;
  EXPECT_TRUE(Holds(block, block.size, 8));
  EXPECT_GE(IdleLargeBytes(), 8 * kMiB);
  FreeLarge(block);
}

TEST_F(LargeBlockTest, WhatNobodyWantsGoesBackToTheSystem) {
  const LargeBlock block = AllocateLarge(kMiB, kMiB);
  FreeLarge(block);
  EXPECT_EQ(IdleLargeBytes(), kMiB);
  SetLargeBlockWait(std::chrono::milliseconds(500));
  EXPECT_TRUE(NoneIsIdle());
}

TEST_F(LargeBlockTest, NotMoreThanABoundWaits) {
  std::vector<LargeBlock> blocks(300);
  for (LargeBlock& block : blocks) block = AllocateLarge(kMiB, kMiB);
  for (const LargeBlock& block : blocks) FreeLarge(block);
  EXPECT_LE(IdleLargeBytes(), 256 * kMiB);
}

TEST_F(LargeBlockTest, ThePoolOfBlocksUsesThem) {
  if (!kPoolsMemory) GTEST_SKIP() << "sanitizers see every allocation";
  FreeBlock(AllocateBlock(kLargeBytes), kLargeBytes);
  EXPECT_EQ(IdleLargeBytes(), kLargeBytes);
}

TEST_F(LargeBlockTest, BlocksOfManyThreadsDoNotOverlap) {
  std::vector<int> damaged(4);
  std::vector<std::thread> threads;
  threads.reserve(damaged.size());
  for (int number = 0; number < 4; ++number) {
    threads.emplace_back([number, &damaged] {
      std::mt19937 chance(static_cast<unsigned>(number));
      const auto size = [&chance] { return kLargeBytes + chance() % (3 * kMiB); };
      for (int round = 0; round < 200; ++round) {
        const std::size_t least = size();
        LargeBlock block = AllocateLarge(least, least + size());
        std::memset(block.data, number, block.size);
        const std::size_t next = size();
        const std::size_t kept = std::min(next, block.size);
        block = {ResizeLarge(block, next), next};
        if (!Holds(block, kept, static_cast<char>(number))) ++damaged[static_cast<std::size_t>(number)];
        FreeLarge(block);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(damaged, std::vector<int>(4));
}

}  // namespace
}  // namespace mesh
