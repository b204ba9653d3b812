#include "prefix/chain.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace mesh::prefix {
namespace {

constexpr std::size_t kMany = 1000;

Chain Of(const std::string& text, const std::string& scope = "model") { return ChainOf(7, scope, text, 16, kMany); }

TEST(Chain, IsEqualAsFarAsTheTextsAre) {
  const std::string shared(64, 'a');
  const Chain one = Of(shared + std::string(32, 'b'));
  const Chain other = Of(shared + std::string(16, 'c') + std::string(16, 'b'));
  ASSERT_EQ(one.size(), 6U);
  ASSERT_EQ(other.size(), 6U);
  for (std::size_t block = 0; block < 6; ++block) EXPECT_EQ(one[block] == other[block], block < 4) << block;
}

TEST(Chain, HasWholeBlocksOnly) {
  EXPECT_TRUE(Of("").empty());
  EXPECT_TRUE(Of(std::string(15, 'a')).empty());
  EXPECT_EQ(Of(std::string(47, 'a')).size(), 2U);
  EXPECT_EQ(ChainOf(7, "model", std::string(160, 'a'), 16, 3).size(), 3U);
}

TEST(Chain, DiffersByScopeAndSeed) {
  const std::string text(32, 'a');
  EXPECT_NE(Of(text), Of(text, "another"));
  EXPECT_NE(Of(text), ChainOf(8, "model", text, 16, kMany));
  EXPECT_EQ(Of(text), Of(text));
}

TEST(Chain, EveryByteOfABlockCounts) {
  for (const std::size_t block_bytes : {1U, 7U, 8U, 13U, 128U}) {
    std::set<std::uint64_t> seen;
    for (std::size_t at = 0; at < block_bytes; ++at) {
      for (const char letter : {'\0', 'b', '\xff'}) {
        std::string text(block_bytes, 'a');
        text[at] = letter;
        seen.insert(ChainOf(7, "", text, block_bytes, 1).front());
      }
    }
    EXPECT_EQ(seen.size(), 3 * block_bytes) << block_bytes;
  }
}

}  // namespace
}  // namespace mesh::prefix
