#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "proxy/sequences.h"
#include "proxy/waiting_room.h"

namespace mesh::proxy {
namespace {

// Is served while there is room.
class Guest final : public Waiter {
 public:
  Guest(std::string name, int* room, std::vector<std::string>* served)
      : name_(std::move(name)), room_(room), served_(served) {}
  bool TryAgain() override {
    if (*room_ == 0) return false;
    --*room_;
    served_->push_back(name_);
    return true;
  }

 private:
  const std::string name_;
  int* const room_;
  std::vector<std::string>* const served_;
};

RequestHead Head(const std::string& model, const std::string& sequence = "") {
  RequestHead head;
  head.model = model;
  head.sequence = sequence;
  return head;
}

TEST(WaitingRoomTest, ServesInOrderAndOnlyWhileThereIsRoom) {
  WaitingRoom room(3);
  int free = 0;
  std::vector<std::string> served;
  for (const char* name : {"a", "b", "c"}) room.Enter(Head("m"), std::make_shared<Guest>(name, &free, &served));
  EXPECT_TRUE(room.full());
  room.Serve();
  EXPECT_TRUE(served.empty());
  free = 2;
  room.Serve();
  EXPECT_EQ(served, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(room.size(), 1U);
}

TEST(WaitingRoomTest, LinesDoNotBlockEachOther) {
  WaitingRoom room(10);
  int none = 0;
  int plenty = 10;
  std::vector<std::string> served;
  room.Enter(Head("m", "1"), std::make_shared<Guest>("stuck", &none, &served));
  room.Enter(Head("m", "2"), std::make_shared<Guest>("other sequence", &plenty, &served));
  room.Enter(Head("n"), std::make_shared<Guest>("other model", &plenty, &served));
  room.Serve();
  EXPECT_EQ(served.size(), 2U);
  EXPECT_EQ(room.size(), 1U);
}

TEST(WaitingRoomTest, SidesHaveLinesOfTheirOwn) {
  WaitingRoom room(10);
  int none = 0;
  int plenty = 10;
  std::vector<std::string> served;
  RequestHead on_a = Head("m");
  on_a.sides = {{"split", "a"}};
  RequestHead on_b = Head("m");
  on_b.sides = {{"split", "b"}};
  const auto stuck = std::make_shared<Guest>("stuck", &none, &served);
  room.Enter(on_a, stuck);
  room.Enter(on_b, std::make_shared<Guest>("other side", &plenty, &served));
  room.Serve();
  EXPECT_EQ(served, std::vector<std::string>{"other side"});
  room.Leave(on_a, stuck.get());
  EXPECT_EQ(room.size(), 0U);
}

TEST(WaitingRoomTest, WhoLeavesIsGone) {
  WaitingRoom room(10);
  int free = 10;
  std::vector<std::string> served;
  const auto first = std::make_shared<Guest>("a", &free, &served);
  const auto second = std::make_shared<Guest>("b", &free, &served);
  room.Enter(Head("m"), first);
  room.Enter(Head("m"), second);
  room.Leave(Head("m"), first.get());
  room.Leave(Head("m"), first.get());
  room.Leave(Head("n"), second.get());
  EXPECT_EQ(room.size(), 1U);
  room.Serve();
  EXPECT_EQ(served, std::vector<std::string>{"b"});
}

TEST(SequencesTest, TheLongestUnusedAreForgotten) {
  Sequences sequences(2);
  sequences.Put("a", "1");
  sequences.Put("b", "2");
  EXPECT_EQ(sequences.Find("a"), "1");
  sequences.Put("c", "3");
  EXPECT_EQ(sequences.Find("b"), "");
  EXPECT_EQ(sequences.Find("a"), "1");
  sequences.Put("a", "7");
  EXPECT_EQ(sequences.Find("a"), "7");
  EXPECT_EQ(sequences.size(), 2U);
  sequences.Remove("a");
  sequences.Remove("a");
  EXPECT_EQ(sequences.Find("a"), "");
}

}  // namespace
}  // namespace mesh::proxy
