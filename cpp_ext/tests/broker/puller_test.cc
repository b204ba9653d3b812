// What a puller says and does: credits, outcomes, connections that break, journals that move.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "puller_world.h"

namespace mesh::broker {
namespace {

TEST_F(PullerTest, ItSaysWhoItIsAndWhatCameOfItems) {
  ScriptedBroker broker("b", {"j"});
  Connect(broker);
  const Heard hello = broker.hellos().at(0);
  EXPECT_EQ(hello.replica + " " + hello.process + " " + hello.deployment, "it-r3-0 process it");
  const int room = broker.credits();
  EXPECT_EQ(room, 8);
  const std::vector<std::string> asked{"one", "refuse", "away", "nothing", "parts", "break"};
  for (std::size_t i = 0; i < asked.size(); ++i) broker.Give({{"j." + std::to_string(i), 1}, asked[i], ""});
  broker.Give({{"j.http", 1}, "", "call"});
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == asked.size() + 1; }));
  std::map<std::string, Heard> done;
  for (const Heard& one : broker.done()) done[one.key.item] = one;
  EXPECT_EQ(done["j.0"].infer, "did one");
  EXPECT_EQ(done["j.1"].failure, 3);
  EXPECT_EQ(done["j.1"].text, "wrong");
  EXPECT_EQ(done["j.2"].again, 14);
  EXPECT_FALSE(done["j.2"].untouched) << "it had begun";
  EXPECT_EQ(done["j.3"].failure, 13);
  EXPECT_EQ(done["j.4"].infers, (std::vector<std::string>{"part 0", "part 1", "part 2"}));
  EXPECT_EQ(done["j.5"].failure, 13);
  EXPECT_EQ(done["j.http"].failure, 3);
  ASSERT_TRUE(Eventually([&] { return broker.credits() == room; })) << "the same room as before";
  Store(broker);
  EXPECT_TRUE(Idle());
  EXPECT_EQ(Count("result"), 2U);
  EXPECT_EQ(Count("failure"), 4U);
  EXPECT_EQ(Count("returned"), 1U);
}

TEST_F(PullerTest, PartsGoOutWhileItRunsAndMetadataComesAlong) {
  ScriptedBroker broker("b", {"j"});
  Connect(broker);
  broker.Give({{"j.1", 1}, "parts", "", {{"traceparent", "x"}}, 0.0, true});
  broker.Give({{"j.2", 1}, "parts", ""});
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 2; }));
  std::vector<ResultPart> parts;
  for (const Heard& one : broker.progress()) {
    EXPECT_EQ(one.key.item, "j.1");
    parts.insert(parts.end(), one.parts.begin(), one.parts.end());
  }
  ASSERT_EQ(parts.size(), 3U);
  EXPECT_EQ(parts[2].number, 2);
  EXPECT_EQ(parts[2].body, "part 2");
}

TEST_F(PullerTest, ItSaysThreeTimesInALeaseThatItLivesAndRepeatsWhatIsNotStored) {
  ScriptedBroker broker("b", {"j"});
  broker.Welcome(WelcomeText(0.15));
  Connect(broker);
  broker.Give({{"j.1", 1}, "wait", ""});
  ASSERT_TRUE(Eventually([&] { return broker.progress().size() > 3; }));
  runs_.Go();
  ASSERT_TRUE(Eventually([&] { return broker.done().size() > 2; })) << "an outcome that is not confirmed";
  broker.Say(StoredText({"j.1", 1}));
  EXPECT_TRUE(Idle());
}

TEST_F(PullerTest, OneThatHasNothingToSaySaysThatItLives) {
  ScriptedBroker broker("b", {"j"});
  broker.Welcome(WelcomeText(0.15));
  Connect(broker);
  const int credits = broker.credits();
  const std::size_t said = broker.grants().size();
  EXPECT_TRUE(Eventually([&] { return broker.grants().size() > said + 2; }));
  EXPECT_EQ(broker.credits(), credits);
}

TEST_F(PullerTest, AStopEndsTheRunAndNothingIsSaidOfIt) {
  ScriptedBroker broker("b", {"j"});
  Connect(broker);
  broker.Give({{"j.1", 1}, "wait", ""});
  ASSERT_TRUE(Eventually([&] { return runs_.waiting() == 1; }));
  broker.Say(With(StopText({"j.1", 7}, "another attempt"), {StopText({"j.9", 1}, "nobody's")}));
  broker.Say(StopText({"j.1", 1}, "cancelled"));
  EXPECT_TRUE(Idle());
  EXPECT_EQ(runs_.cancelled, 1);
  EXPECT_TRUE(broker.done().empty());
  EXPECT_EQ(Count("stopped"), 1U);
}

TEST_F(PullerTest, ALaterAttemptStopsTheEarlierOne) {
  ScriptedBroker broker("b", {"j"});
  Connect(broker);
  broker.Give({{"j.1", 1}, "wait", ""});
  ASSERT_TRUE(Eventually([&] { return runs_.waiting() == 1; }));
  broker.Give({{"j.1", 2}, "one", ""});
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 1; }));
  EXPECT_EQ(broker.done()[0].key.attempt, 2);
  EXPECT_EQ(runs_.cancelled, 1);
}

TEST_F(PullerTest, ADeadlineEndsWhatRuns) {
  ScriptedBroker broker("b", {"j"});
  Connect(broker);
  broker.Give({{"j.1", 1}, "wait", "", {}, 0.05});
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 1; }));
  EXPECT_EQ(broker.done()[0].failure, 4);
}

TEST_F(PullerTest, OutcomesOutliveTheConnection) {
  ScriptedBroker broker("b", {"j"});
  Connect(broker);
  for (const char* item : {"j.1", "j.2", "j.3"}) broker.Give({{item, 1}, "wait", ""});
  ASSERT_TRUE(Eventually([&] { return runs_.waiting() == 3; }));
  broker.Welcome(WelcomeText(15.0, {{"j.3", 1}}));
  broker.HangUp();
  ASSERT_TRUE(Eventually([&] { return broker.hellos().size() == 2; }));
  EXPECT_EQ(broker.hellos()[1].held.size(), 3U);
  ASSERT_TRUE(Eventually([&] { return runs_.cancelled == 1; })) << "what is lost is stopped";
  runs_.Go();
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 2; }));
  broker.Welcome(WelcomeText(15.0));
  broker.Stop();
  broker.Start();
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 4; })) << "they are said again";
  Store(broker);
  EXPECT_TRUE(Idle());
}

TEST_F(PullerTest, AJournalThatMovesTakesItsOutcomesAlong) {
  ScriptedBroker old("old", {"j"});
  ScriptedBroker next("new", {"k"});
  old.Start();
  next.Start();
  Apply({&old, &next});
  ASSERT_TRUE(Eventually([&] { return old.credits() > 0 && next.credits() > 0; })) << "both have some";
  old.Give({{"j.1", 1}, "wait", ""});
  ASSERT_TRUE(Eventually([&] { return runs_.waiting() == 1; }));
  old.Stop();
  runs_.Go();
  next.journals() = {"k", "j"};
  Apply({&next});
  ASSERT_TRUE(Eventually([&] { return next.done().size() == 1; }));
  EXPECT_EQ(next.done()[0].infer, "waited");
  EXPECT_EQ(next.hellos().size(), 1U);
}

TEST_F(PullerTest, GarbageAndSilenceEndAConnectionAndAnotherOneBegins) {
  ScriptedBroker broker("b", {"j"});
  broker.Welcome(StoredText({"j.1", 1}));  // no welcome
  broker.Start();
  Apply({&broker});
  ASSERT_TRUE(Eventually([&] { return broker.hellos().size() >= 2; }));
  broker.Welcome(WelcomeText(15.0));
  ASSERT_TRUE(Eventually([&] { return broker.credits() > 0; }));
  const std::size_t before = broker.hellos().size();
  broker.Say("\x12\xff garbage");
  ASSERT_TRUE(Eventually([&] { return broker.hellos().size() > before && broker.credits() > 0; }));
  broker.Give({{"j.1", 1}, "one", ""});
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 1; }));
}

TEST_F(PullerTest, OneThatIsNotWellTakesItsCreditsBackAndOneThatHasLeftGetsNone) {
  ScriptedBroker one("a", {"j"});
  ScriptedBroker two("b", {"k"});
  one.Start();
  two.Start();
  Apply({&one, &two});
  ASSERT_TRUE(Eventually([&] { return one.credits() > 0 && two.credits() > 0; }));
  On([this] { puller_->SetOpen(false); });
  ASSERT_TRUE(Eventually([&] { return one.credits() == 0 && two.credits() == 0; }));
  On([this] { puller_->SetOpen(true); });
  ASSERT_TRUE(Eventually([&] { return one.credits() == 4 && two.credits() == 4; })) << "they share it";
  Apply({&one});
  ASSERT_TRUE(Eventually([&] { return one.credits() == 8 && two.credits() == 0; }));
  two.HangUp();
  one.Give({{"j.1", 1}, "one", ""});
  ASSERT_TRUE(Eventually([&] { return one.done().size() == 1; }));
  EXPECT_EQ(two.hellos().size(), 1U) << "it is not called again";
}

TEST_F(PullerTest, AFullReplicaKeepsTheItemUntilThereIsRoom) {
  ScriptedBroker broker("b", {"j"});
  Connect(broker);
  runs_.full = 1000;
  broker.Give({{"j.1", 1}, "one", ""});
  ASSERT_TRUE(Eventually([&] { return broker.credits() == 0; })) << "it asks for nothing meanwhile";
  runs_.full = 0;
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 1; }));
  EXPECT_EQ(broker.done()[0].infer, "did one");
  ASSERT_TRUE(Eventually([&] { return broker.credits() == 8; })) << "and then again";
  runs_.full = 1000;
  broker.Give({{"j.2", 1}, "one", ""});
  broker.Give({{"j.3", 1}, "one", "", {}, 0.05});
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 2; }));
  EXPECT_EQ(broker.done()[1].failure, 4) << "its deadline passed";
  broker.Say(StopText({"j.2", 1}, "cancelled"));
  Store(broker);
  EXPECT_TRUE(Idle());
}

TEST_F(PullerTest, WhatTheQueueOfAModelRefusesGoesBackUntouched) {
  ScriptedBroker broker("b", {"j"});
  Connect(broker);
  broker.Give({{"j.1", 1}, "queue", ""});
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 1; }));
  EXPECT_EQ(broker.done()[0].again, 14);
  EXPECT_TRUE(broker.done()[0].untouched);
  ASSERT_TRUE(Eventually([&] { return broker.credits() == 8; })) << "after a while it asks again";
  broker.Give({{"j.1", 2}, "in ensemble", ""});
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 2; }));
  EXPECT_EQ(broker.done()[1].again, 14);
  EXPECT_FALSE(broker.done()[1].untouched) << "earlier steps may have run";
  Store(broker);
  EXPECT_TRUE(Idle());
}

TEST_F(PullerTest, ADrainGivesBackWhatIsOnItsWayAndFinishesWhatRuns) {
  ScriptedBroker broker("b", {"j"});
  Connect(broker);
  broker.Give({{"j.1", 1}, "wait", ""});
  ASSERT_TRUE(Eventually([&] { return runs_.waiting() == 1; }));
  On([this] { puller_->Drain(); });
  ASSERT_TRUE(Eventually([&] { return broker.credits() == 0; }));
  broker.Give({{"j.2", 1}, "one", ""});
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 1; }));
  EXPECT_EQ(broker.done()[0].again, 14);
  EXPECT_TRUE(broker.done()[0].untouched);
  runs_.Go();
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 2; }));
  Store(broker);
  EXPECT_TRUE(Idle());
  EXPECT_EQ(runs_.begun, 1);
}

TEST_F(PullerTest, WhatStillRunsAtTheEndGoesBack) {
  ScriptedBroker broker("b", {"j"});
  Connect(broker);
  broker.Give({{"j.1", 1}, "wait", ""});
  ASSERT_TRUE(Eventually([&] { return runs_.waiting() == 1; }));
  On([this] { puller_->StopRunning(); });
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 1; }));
  EXPECT_EQ(broker.done()[0].again, 14);
  EXPECT_FALSE(broker.done()[0].untouched);
  EXPECT_EQ(runs_.cancelled, 1);
}

TEST_F(PullerTest, AResultThatIsTooLargeFails) {
  ScriptedBroker broker("b", {"j"});
  broker.Welcome(WelcomeText(15.0, {}, 9));
  Connect(broker);
  broker.Give({{"j.1", 1}, "something long", ""});
  broker.Give({{"j.2", 1}, "parts", ""});
  broker.Give({{"j.3", 1}, "this", ""});
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 3; }));
  for (const Heard& done : broker.done()) EXPECT_EQ(done.failure, done.key.item == "j.3" ? 0 : 9) << done.key.item;
}

TEST_F(PullerTest, ManyGoThrough) {
  ScriptedBroker broker("b", {"j"});
  broker.per_replica = 64;
  Connect(broker);
  std::vector<std::string> batch;
  batch.reserve(1999);
  for (int i = 1; i < 2000; ++i) {
    batch.push_back(WorkText{{"j." + std::to_string(i), 1}, std::to_string(i), ""}.Encode());
  }
  broker.Say(With(WorkText{{"j.0", 1}, "0", ""}.Encode(), batch));
  ASSERT_TRUE(Eventually([&] { return broker.done().size() == 2000; }));
  for (const Heard& done : broker.done()) EXPECT_EQ("did " + done.key.item.substr(2), done.infer);
  Store(broker);
  EXPECT_TRUE(Idle());
}

}  // namespace
}  // namespace mesh::broker
