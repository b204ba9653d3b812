#include "broker/held.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace mesh::broker {
namespace {

TEST(HeldTest, AnItemIsOfItsJournal) {
  EXPECT_EQ(JournalOf("abc.17"), "abc");
  EXPECT_EQ(JournalOf("a.b.17"), "a.b");
  EXPECT_EQ(JournalOf("nothing"), "");
  EXPECT_EQ(JournalOf(""), "");
}

TEST(HeldTest, PartsAreTakenOnceAndNumberedThroughout) {
  HeldItem held({"j.1", 1}, 0.0, 10);
  held.AddPart("one");
  held.AddPart("two");
  EXPECT_TRUE(held.has_news());
  const std::vector<ResultPart> parts = held.TakeParts();
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[1].number, 1);
  EXPECT_EQ(parts[1].body, "two");
  EXPECT_FALSE(held.has_news());
  EXPECT_TRUE(held.TakeParts().empty());
}

TEST(HeldTest, APartThatFindsNoRoomIsLeftOutWithItsNumber) {
  HeldItem held({"j.1", 1}, 0.0, 10);
  const std::string large(900'000, 'x');
  for (int i = 0; i < 3; ++i) held.AddPart(large);
  held.AddPart("small");
  const std::vector<ResultPart> parts = held.TakeParts();
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[0].number, 0);
  EXPECT_EQ(parts[1].number, 3);
  held.AddPart(large);
  EXPECT_EQ(held.TakeParts().front().number, 4);
}

TEST(HeldTest, BytesAndRunsAreCounted) {
  HeldItems items;
  const auto one = std::make_shared<HeldItem>(ItemKey{"j.1", 1}, 0.0, 10);
  const auto two = std::make_shared<HeldItem>(ItemKey{"j.2", 1}, 0.0, 20);
  items.Add(one);
  items.Add(two);
  items.Add(std::make_shared<HeldItem>(ItemKey{"j.2", 1}, 0.0, 999));  // is there already
  EXPECT_EQ(items.running(), 2);
  EXPECT_EQ(items.bytes(), 30U);
  items.Finish(*one, rpc::Message("12345"), 1.0);
  items.Finish(*one, rpc::Message("again, and not counted"), 1.0);
  EXPECT_EQ(items.running(), 1);
  EXPECT_EQ(items.bytes(), 25U);
  EXPECT_TRUE(one->has_news());
  items.Remove(*two);
  items.Remove(*two);
  EXPECT_EQ(items.running(), 0);
  items.Remove(*one);
  EXPECT_EQ(items.bytes(), 0U);
  EXPECT_TRUE(items.empty());
}

TEST(HeldTest, EarlierAttemptsAreThoseOfTheSameItem) {
  HeldItems items;
  for (const ItemKey& key : std::vector<ItemKey>{{"j.1", 1}, {"j.1", 3}, {"j.1", 7}, {"j.10", 1}, {"j.0", 2}}) {
    items.Add(std::make_shared<HeldItem>(key, 0.0, 1));
  }
  const auto earlier = items.EarlierAttempts({"j.1", 7});
  ASSERT_EQ(earlier.size(), 2U);
  EXPECT_EQ(earlier[1]->key.attempt, 3);
  EXPECT_EQ(items.Find({"j.1", 2}), nullptr);
  EXPECT_NE(items.Find({"j.10", 1}), nullptr);
}

}  // namespace
}  // namespace mesh::broker
