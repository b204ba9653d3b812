#include "prefix/index.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>

namespace mesh::prefix {
namespace {

constexpr std::size_t kPlenty = 64 << 20;

// A chain in which block `at` stands for all letters up to it, as real ones do.
Chain Of(const std::string& letters) { return ChainOf(1, "", letters, 1, letters.size()); }

std::map<Replica, std::size_t> Found(const Index& index, const std::string& letters) {
  std::map<Replica, std::size_t> found;
  for (const Match& match : index.Find(Of(letters))) found[match.replica] = match.blocks;
  return found;
}

using Wanted = std::map<Replica, std::size_t>;

TEST(PrefixIndex, FindsTheLongestBeginningOfEachReplica) {
  Index index(kPlenty);
  EXPECT_EQ(Found(index, "abc"), Wanted{});
  EXPECT_EQ(index.Insert(Of("abcdef"), 1, 0), 0U);
  EXPECT_EQ(index.Insert(Of("abcxyz"), 2, 0), 0U);
  EXPECT_EQ(index.Insert(Of("ab"), 3, 0), 0U);
  EXPECT_EQ(Found(index, "abcdefgh"), (Wanted{{1, 6}, {2, 3}, {3, 2}}));
  EXPECT_EQ(Found(index, "abcxy"), (Wanted{{1, 3}, {2, 5}, {3, 2}}));
  EXPECT_EQ(Found(index, "b"), Wanted{});
  EXPECT_EQ(index.Insert(Of("abcdxx"), 1, 0), 4U);
  EXPECT_EQ(index.Insert(Of("abcd"), 1, 0), 4U);
  EXPECT_EQ(index.HeldBlocks(1), 8U);
  EXPECT_EQ(index.HeldBlocks(2), 6U);
}

TEST(PrefixIndex, ForgetsAReplica) {
  Index index(kPlenty);
  index.Insert(Of("abcdef"), 1, 0);
  index.Insert(Of("abcxyz"), 2, 0);
  index.Remove(1);
  index.Remove(1);
  EXPECT_EQ(Found(index, "abcdef"), (Wanted{{2, 3}}));
  index.Remove(2);
  EXPECT_EQ(index.nodes(), 0U);
  EXPECT_EQ(index.bytes(), 0U);
}

TEST(PrefixIndex, AReplicaHoldsNoMoreThanItsCacheDoes) {
  Index index(kPlenty);
  index.Insert(Of("aaaa"), 1, 10);
  index.Insert(Of("bbbb"), 1, 10);
  index.Insert(Of("aaaa"), 1, 10);  // used again, so the other one is the older
  index.Insert(Of("cccc"), 1, 10);
  EXPECT_EQ(index.HeldBlocks(1), 10U);
  EXPECT_EQ(Found(index, "aaaa"), (Wanted{{1, 4}}));
  EXPECT_EQ(Found(index, "bbbb"), (Wanted{{1, 2}}));  // its end went first
  EXPECT_EQ(Found(index, "cccc"), (Wanted{{1, 4}}));
  index.Insert(Of("dddddddddddddd"), 1, 10);
  EXPECT_EQ(Found(index, "dddddddddddddd"), (Wanted{{1, 10}}));
  EXPECT_EQ(Found(index, "aaaa"), Wanted{});
}

TEST(PrefixIndex, WhatManyShareStays) {
  Index index(kPlenty);
  for (const char letter : std::string("abcdefghijklmnop")) {
    index.Insert(Of("sharedshared" + std::string(4, letter)), 1, 20);
  }
  EXPECT_EQ(Found(index, "sharedshared"), (Wanted{{1, 12}}));
  EXPECT_EQ(Found(index, "sharedsharedpppp"), (Wanted{{1, 16}}));
  EXPECT_EQ(Found(index, "sharedsharedaaaa"), (Wanted{{1, 12}}));
}

TEST(PrefixIndex, TakesBackWhatWasNotComputed) {
  Index index(kPlenty);
  index.Insert(Of("abcd"), 1, 0);
  index.Insert(Of("abcdefgh"), 2, 0);
  const std::size_t before = index.Insert(Of("abcdefgh"), 1, 0);
  EXPECT_EQ(before, 4U);
  index.Trim(Of("abcdefgh"), 1, before);
  EXPECT_EQ(Found(index, "abcdefgh"), (Wanted{{1, 4}, {2, 8}}));
  index.Trim(Of("abcdefgh"), 2, 6);  // within an edge
  EXPECT_EQ(Found(index, "abcdefgh"), (Wanted{{1, 4}, {2, 6}}));
  index.Trim(Of("abcdefgh"), 2, 0);
  index.Trim(Of("abcdefgh"), 3, 0);
  EXPECT_EQ(Found(index, "abcdefgh"), (Wanted{{1, 4}}));
  EXPECT_EQ(index.HeldBlocks(2), 0U);
}

TEST(PrefixIndex, AnEmptyChainIsNothing) {
  Index index(kPlenty);
  EXPECT_EQ(index.Insert({}, 1, 0), 0U);
  EXPECT_TRUE(index.Find({}).empty());
  index.Trim({}, 1, 0);
  EXPECT_EQ(index.nodes(), 0U);
}

TEST(PrefixIndex, LosesTheOldestOfAllWhenItIsFull) {
  Index index(2000);
  index.Insert(Of("first"), 1, 0);
  index.Insert(Of("second"), 2, 0);
  index.Insert(Of("first"), 1, 0);
  for (char letter = 'a'; Found(index, "second") == Wanted({{2, 6}}); ++letter) {
    ASSERT_LE(letter, 'z');
    index.Insert(Of("x" + std::string(1, letter)), 1, 0);
    EXPECT_LE(index.bytes(), 2000U);
  }
  EXPECT_EQ(Found(index, "first"), (Wanted{{1, 5}}));
}

// The same as a list of texts for each replica, on small alphabets, where prompts share beginnings all the time.
TEST(PrefixIndex, IsWhatAPlainListIs) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    Index index(kPlenty);
    std::map<Replica, std::vector<std::string>> plain;
    for (int step = 0; step < 60; ++step) {
      std::string text;
      for (std::size_t size = random() % 12; text.size() < size;) text += static_cast<char>('a' + random() % 2);
      const Replica replica = random() % 3;
      if (random() % 20 == 0) {
        index.Remove(replica);
        plain.erase(replica);
      } else {
        index.Insert(Of(text), replica, 0);
        plain[replica].push_back(text);
      }
      Wanted wanted;
      for (const auto& [owner, texts] : plain) {
        for (const std::string& known : texts) {
          const auto end = std::mismatch(text.begin(), text.end(), known.begin(), known.end()).first;
          const auto same = static_cast<std::size_t>(end - text.begin());
          if (same > 0) wanted[owner] = std::max(wanted[owner], same);
        }
      }
      ASSERT_EQ(Found(index, text), wanted) << "round " << round << ", step " << step << ": " << text;
    }
    for (Replica replica = 0; replica < 3; ++replica) index.Remove(replica);
    ASSERT_EQ(index.nodes(), 0U);
    ASSERT_EQ(index.bytes(), 0U);
  }
}

// With everything at once the bounds hold, and nothing is left over at the end.
TEST(PrefixIndex, BoundsHoldInAnyOrder) {
  std::mt19937 random(12);
  for (int round = 0; round < 100; ++round) {
    const std::size_t most = 500 + random() % 4000;
    Index index(most);
    for (int step = 0; step < 200; ++step) {
      std::string text;
      for (std::size_t size = random() % 16; text.size() < size;) text += static_cast<char>('a' + random() % 3);
      const Replica replica = random() % 4;
      const std::size_t limit = 10 + 5 * replica;
      if (random() % 5 == 0) {
        index.Trim(Of(text), replica, random() % 10);
      } else {
        index.Insert(Of(text), replica, limit);
      }
      ASSERT_LE(index.bytes(), most);
      ASSERT_LE(index.HeldBlocks(replica), limit);
      for (const Match& match : index.Find(Of(text))) ASSERT_LE(match.blocks, index.HeldBlocks(match.replica));
    }
    for (Replica replica = 0; replica < 4; ++replica) index.Remove(replica);
    ASSERT_EQ(index.nodes(), 0U);
    ASSERT_EQ(index.bytes(), 0U);
  }
}

TEST(PrefixIndex, AMillionPromptsStayWithinTheirMemory) {
  constexpr std::size_t kMost = 16 << 20;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const std::size_t before = mallinfo2().uordblks;
#endif
  Index index(kMost);
  std::string text(1024, 'x');
  for (int number = 0; number < 1'000'000; ++number) {
    const std::string name = std::to_string(number);
    std::copy(name.begin(), name.end(), text.begin());
    index.Insert(ChainOf(1, "model", text, 128, 64), static_cast<Replica>(number % 8), 0);
  }
  EXPECT_LE(index.bytes(), kMost);
  EXPECT_GT(index.bytes(), kMost / 2);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LE(mallinfo2().uordblks - before, kMost) << "it takes more than it counts";
#endif
}

}  // namespace
}  // namespace mesh::prefix
