// Which endpoints a request is sent to where traffic is split.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "proxy/router.h"

namespace mesh::proxy {
namespace {

using routing::Fault;
using routing::TrafficSide;
using routing::TrafficSplit;

class Running final : public RunningCall {
 public:
  void PeerHangs() override {}
};

Endpoint Make(const std::string& deployment, int number = 0, std::int64_t revision = 1) {
  Endpoint endpoint;
  endpoint.id = deployment + std::to_string(number);
  endpoint.address = endpoint.id + ":1";
  endpoint.deployment = deployment;
  endpoint.models = {{"m", {"1"}}};
  endpoint.revision = revision;
  endpoint.ready = true;
  return endpoint;
}

// Of deployments a and b; c gets nothing.
TrafficSplit Ab(std::uint32_t a = 1, std::uint32_t b = 1) {
  TrafficSplit split;
  split.name = "ab";
  split.model = "m";
  split.sides = {{"A", a, "a", {}}, {"B", b, "b", {}}};
  return split;
}

RequestHead On(const std::string& side, const std::string& sequence = "", bool start = true) {
  RequestHead head;
  head.model = "m";
  head.sequence = sequence;
  head.sequence_start = start;
  head.sides = {{"ab", side}};
  return head;
}

// Channels are not used by choices.
class SplitRoutingTest : public testing::Test {
 protected:
  Router& Start(const std::vector<Endpoint>& endpoints, std::vector<TrafficSplit> splits, routing::Policy policy = {}) {
    router_ = std::make_unique<Router>(
        std::move(policy), [](const Endpoint&) { return nullptr; }, [](const Endpoint&) {}, [this] { ++changes_; });
    router_->SetEndpoints(endpoints, now_);
    router_->SetTraffic(routing::Traffic(std::move(splits)));
    return *router_;
  }

  std::set<std::string> Ids(const RequestHead& head, const Tried& tried = {}) {
    std::set<std::string> ids;
    for (int i = 0; i < 200; ++i) {
      const Found found = router_->Choose(head, tried, now_);
      ids.insert(found.peer == nullptr ? "" : found.peer->endpoint.id);
    }
    return ids;
  }

  std::shared_ptr<Peer> Find(const std::string& id) {
    RequestHead any;
    any.model = "m";
    for (int i = 0; i < 1000; ++i) {
      Found found = router_->Choose(any, {}, now_);
      if (found.peer != nullptr && found.peer->endpoint.id == id) return found.peer;
    }
    throw std::runtime_error(id + " was never chosen");
  }

  void Eject(const std::vector<std::shared_ptr<Peer>>& peers) {
    for (const auto& peer : peers) router_->Failed(*peer, Fault::kLost, {Code::kUnavailable, "lost"}, 0.1, now_);
  }

  using Names = std::set<std::string>;

  double now_ = 100.0;
  int changes_ = 0;
  std::unique_ptr<Router> router_;
};

routing::Policy AllMayBeEjected() {
  routing::Policy policy;
  policy.outliers.max_share = 1.0;
  return policy;
}

TEST_F(SplitRoutingTest, ARequestStaysOnItsSide) {
  Start({Make("a"), Make("a", 1), Make("b"), Make("c")}, {Ab()});
  EXPECT_EQ(Ids(On("A")), (Names{"a0", "a1"}));
  EXPECT_EQ(Ids(On("B")), (Names{"b0"}));
  RequestHead none;
  none.model = "m";
  EXPECT_EQ(Ids(none), (Names{"a0", "a1", "b0", "c0"})) << "one that no split is about may go anywhere";
}

TEST_F(SplitRoutingTest, TheOrderInWhichTheyAreAsked) {
  Start({Make("a"), Make("b"), Make("c")}, {Ab()}, AllMayBeEjected());
  const auto a = Find("a0");
  const auto b = Find("b0");
  EXPECT_EQ(Ids(On("A")), Names{"a0"});
  Eject({a});
  EXPECT_EQ(Ids(On("A")), Names{"b0"}) << "a spare that works comes before one's own that does not";
  EXPECT_EQ(Ids(On("A"), {b->key}), Names{"a0"}) << "then the side's ejected ones";
  Eject({b});
  EXPECT_EQ(Ids(On("A")), Names{"a0"});
  EXPECT_EQ(Ids(On("A"), {a->key}), Names{"b0"}) << "then ejected spares";
  EXPECT_EQ(router_->Choose(On("A"), {a->key, b->key}, now_).lack, Lack::kUntried) << "and never the third";
}

TEST_F(SplitRoutingTest, ASideWithoutEndpointsHasSpares) {
  Start({Make("b"), Make("c")}, {Ab()});
  EXPECT_EQ(Ids(On("A")), Names{"b0"});
  Endpoint draining = Make("a");
  draining.ready = false;
  router_->SetEndpoints({draining, Make("b"), Make("c")}, now_);
  EXPECT_EQ(Ids(On("A")), Names{"b0"});
}

TEST_F(SplitRoutingTest, ASideThatIsOnlyFullIsWaitedFor) {
  routing::Policy policy;
  policy.max_in_flight_per_endpoint = 1;
  Start({Make("a"), Make("b")}, {Ab()}, policy);
  Running one;
  const Slot slot(Find("a0"), &one, now_);
  EXPECT_EQ(router_->Choose(On("A"), {}, now_).lack, Lack::kRoom);
  EXPECT_EQ(Ids(On("B")), Names{"b0"});
}

TEST_F(SplitRoutingTest, OneThatRefusedForWantOfRoomWorks) {
  Start({Make("a"), Make("b")}, {Ab()});
  const auto a = Find("a0");
  EXPECT_EQ(router_->Choose(On("A"), {{a->key, true}}, now_).lack, Lack::kUntried) << "it is asked again, not a spare";
  EXPECT_EQ(Ids(On("A"), {{a->key, false}}), Names{"b0"}) << "one that failed is not";
  const auto b = Find("b0");
  Eject({a});
  EXPECT_EQ(Ids(On("A"), {{b->key, true}}), Names{"a0"});
  EXPECT_EQ(Ids(On("A"), {{a->key, false}}), Names{"b0"});
}

TEST_F(SplitRoutingTest, OnNoSideAtAll) {
  Router& router = Start({Make("c"), Make("c", 1, 2)}, {Ab()});
  EXPECT_EQ(router.Choose(On("A"), {}, now_).lack, Lack::kSide);
  EXPECT_EQ(router.Offering(On("A")), (std::vector<std::string>{"c in revision 1", "c in revision 2"}));
  RequestHead other = On("A");
  other.model = "n";
  EXPECT_EQ(router.Choose(other, {}, now_).lack, Lack::kModel);
  router.SetEndpoints({}, now_);
  EXPECT_EQ(router.Choose(On("A"), {}, now_).lack, Lack::kPeers);
}

TEST_F(SplitRoutingTest, WithoutWeightNobodysSpare) {
  Start({Make("b")}, {Ab(1, 0)});
  EXPECT_EQ(router_->Choose(On("A"), {}, now_).lack, Lack::kSide);
  EXPECT_EQ(Ids(On("B")), Names{"b0"});
}

TEST_F(SplitRoutingTest, ChangesOfTheRecord) {
  Start({Make("a"), Make("b"), Make("c")}, {Ab()});
  const int before = changes_;
  router_->SetTraffic(routing::Traffic({Ab(0, 1)}));
  EXPECT_EQ(changes_, before + 1) << "those who wait are told";
  EXPECT_EQ(Ids(On("A")), Names{"a0"}) << "who waits keeps the side";
  router_->SetTraffic({});
  EXPECT_EQ(Ids(On("A")), (Names{"a0", "b0", "c0"})) << "who waits for a split that is gone has no side";
}

TEST_F(SplitRoutingTest, RevisionsOfACanary) {
  TrafficSplit canary;
  canary.name = "ab";
  canary.deployment = "a";
  canary.sides = {{"A", 1, "", {2}}, {"B", 9, "", {}}};
  Start({Make("a"), Make("a", 1, 2), Make("c")}, {canary});
  EXPECT_EQ(Ids(On("A")), (Names{"a1", "c0"})) << "others that offer the model have nothing to do with it";
  EXPECT_EQ(Ids(On("B")), (Names{"a0", "c0"}));
}

TEST_F(SplitRoutingTest, LabelsArePreferredWithinASide) {
  routing::Policy policy = AllMayBeEjected();
  policy.prefer_labels = {{"zone", "x"}};
  Endpoint near = Make("b");
  near.labels["zone"] = "x";
  Endpoint near_own = Make("a", 1);
  near_own.labels["zone"] = "x";
  Start({Make("a"), near_own, near}, {Ab()}, policy);
  EXPECT_EQ(Ids(On("A")), Names{"a1"});
  Eject({Find("a1")});
  EXPECT_EQ(Ids(On("A")), Names{"a0"}) << "the side counts more than the label";
}

TEST_F(SplitRoutingTest, SequencesBeginOnTheirSideAndStay) {
  const std::vector<Endpoint> all = {Make("a"), Make("a", 1), Make("b"), Make("b", 1)};
  Start(all, {Ab()});
  std::map<std::string, std::string> homes;
  for (int i = 0; i < 40; ++i) {
    const RequestHead first = On("A", std::to_string(i));
    const auto home = router_->Choose(first, {}, now_).peer;
    ASSERT_EQ(home->endpoint.deployment, "a");
    router_->Sent(first, *home);
    homes[first.sequence] = home->endpoint.id;
  }
  EXPECT_EQ(router_->Choose(On("A", "3", false), {}, now_).peer->endpoint.id, homes["3"]);
  router_->SetTraffic(routing::Traffic({Ab(0, 1)}));
  EXPECT_EQ(router_->Choose(On("B", "3", false), {}, now_).peer->endpoint.id, homes["3"]) << "its state is there";
  Start(all, {Ab()});  // another proxy, which has not seen the first requests
  for (const auto& [sequence, home] : homes) {
    EXPECT_EQ(router_->Choose(On("A", sequence, false), {}, now_).peer->endpoint.id, home);
  }
}

TEST_F(SplitRoutingTest, ASequenceOfASideThatIsLostBeginsElsewhere) {
  Start({Make("a"), Make("b")}, {Ab()});
  const auto a = Find("a0");
  EXPECT_EQ(router_->Choose(On("A", "1"), {{a->key, true}}, now_).lack, Lack::kUntried);
  Eject({a});
  EXPECT_EQ(router_->Choose(On("A", "1"), {}, now_).peer->endpoint.id, "b0");
}

TEST_F(SplitRoutingTest, CopiesGoWhereTheFewestAre) {
  Start({Make("a"), Make("c"), Make("c", 1), Make("c", 2)}, {Ab()});
  const auto one = Find("c0");
  const auto two = Find("c1");
  const auto copy_at = [&] {
    std::set<std::string> ids;
    for (int i = 0; i < 200; ++i) ids.insert(router_->ChooseShadow("c", On("A"), now_)->endpoint.id);
    return ids;
  };
  EXPECT_EQ(copy_at(), (Names{"c0", "c1", "c2"}));
  one->copies = 1;
  EXPECT_EQ(copy_at(), (Names{"c1", "c2"}));
  two->copies_rest_until = now_ + 1.0;
  EXPECT_EQ(copy_at(), Names{"c2"});
  Eject({Find("c2")});
  EXPECT_EQ(copy_at(), Names{"c0"}) << "one that rests comes last";
  now_ += 1.0;
  EXPECT_EQ(copy_at(), Names{"c1"});
}

TEST_F(SplitRoutingTest, NobodyForACopy) {
  Endpoint other = Make("c");
  other.models = {{"n", {}}};
  Start({Make("a"), other}, {Ab()});
  EXPECT_EQ(router_->ChooseShadow("c", On("A"), now_), nullptr) << "the model is not there";
  EXPECT_EQ(router_->ChooseShadow("d", On("A"), now_), nullptr);
}

}  // namespace
}  // namespace mesh::proxy
