#include "proxy/router.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace mesh::proxy {
namespace {

class Running final : public RunningCall {
 public:
  void PeerHangs() override {}
};

Endpoint Make(const std::string& id) {
  Endpoint endpoint;
  endpoint.id = id;
  endpoint.address = id + ":1";
  endpoint.deployment = "m";
  endpoint.models = {{"digits", {"1"}}};
  endpoint.ready = true;
  return endpoint;
}

RequestHead Asks(const std::string& model, const std::string& version = "") {
  RequestHead head;
  head.model = model;
  head.version = version;
  return head;
}

// Channels are not used by choices.
class RouterTest : public testing::Test {
 protected:
  Router& Start(routing::Policy policy = {}) {
    router_ = std::make_unique<Router>(
        std::move(policy), [](const Endpoint&) { return nullptr; },
        [this](const Endpoint& endpoint) { refused_.push_back(endpoint.id); }, [this] { ++changes_; });
    return *router_;
  }

  std::map<std::string, int> Shares(const RequestHead& head, int picks = 400) {
    std::map<std::string, int> shares;
    for (int i = 0; i < picks; ++i) {
      const Found found = router_->Choose(head, {}, now_);
      ++shares[found.peer == nullptr ? "" : found.peer->endpoint.id];
    }
    return shares;
  }

  std::shared_ptr<Peer> Find(const std::string& id) {
    for (int i = 0; i < 1000; ++i) {
      Found found = router_->Choose({}, {}, now_);
      if (found.peer != nullptr && found.peer->endpoint.id == id) return found.peer;
    }
    ADD_FAILURE() << id << " was never chosen";
    return nullptr;
  }

  double now_ = 100.0;
  int changes_ = 0;
  std::vector<std::string> refused_;
  std::unique_ptr<Router> router_;
};

TEST_F(RouterTest, NobodyAndWhy) {
  Router& router = Start();
  EXPECT_EQ(router.Choose(Asks("digits"), {}, now_).lack, Lack::kPeers);
  Endpoint draining = Make("a");
  draining.ready = false;
  router.SetEndpoints({draining}, now_);
  EXPECT_EQ(router.Choose(Asks("digits"), {}, now_).lack, Lack::kPeers);
  EXPECT_EQ(router.draining(), 1U);
  router.SetEndpoints({Make("a")}, now_);
  EXPECT_EQ(router.Choose(Asks("letters"), {}, now_).lack, Lack::kModel);
  EXPECT_EQ(router.Choose(Asks("digits", "2"), {}, now_).lack, Lack::kModel);
  const Found found = router.Choose(Asks("digits", "1"), {}, now_);
  ASSERT_NE(found.peer, nullptr);
  EXPECT_EQ(router.Choose(Asks("digits"), {found.peer->key}, now_).lack, Lack::kUntried);
  EXPECT_EQ(router.Offered(""), std::vector<std::string>{"digits"});
  EXPECT_EQ(changes_, 2) << "those who wait are told of each new picture";
}

TEST_F(RouterTest, ADeploymentMayBeAskedFor) {
  Router& router = Start();
  Endpoint other = Make("b");
  other.deployment = "n";
  router.SetEndpoints({Make("a"), other}, now_);
  RequestHead head = Asks("digits");
  EXPECT_EQ(Shares(head).size(), 2U);
  head.deployment = "n";
  EXPECT_EQ(Shares(head), (std::map<std::string, int>{{"b", 400}}));
}

TEST_F(RouterTest, ALimitLeavesRoomElsewhereFirst) {
  routing::Policy policy;
  policy.max_in_flight_per_endpoint = 1;
  Router& router = Start(policy);
  router.SetEndpoints({Make("a"), Make("b")}, now_);
  Running one;
  Running two;
  const Slot first(Find("a"), &one, now_);
  EXPECT_EQ(Shares(Asks("digits")), (std::map<std::string, int>{{"b", 400}}));
  {
    const Slot second(Find("b"), &two, now_);
    EXPECT_EQ(router.Choose(Asks("digits"), {}, now_).lack, Lack::kRoom);
    EXPECT_EQ(router.running(), 2U);
  }
  EXPECT_EQ(Shares(Asks("digits")), (std::map<std::string, int>{{"b", 400}}));
}

TEST_F(RouterTest, PreferredLabelsComeFirstWhileTheyWork) {
  routing::Policy policy;
  policy.prefer_labels = {{"zone", "a"}};
  Router& router = Start(policy);
  Endpoint near = Make("near");
  near.labels["zone"] = "a";
  router.SetEndpoints({near, Make("far")}, now_);
  EXPECT_EQ(Shares(Asks("digits")), (std::map<std::string, int>{{"near", 400}}));
  const std::shared_ptr<Peer> peer = Find("near");
  router.Failed(*peer, routing::Fault::kLost, {Code::kUnavailable, "connection lost"}, 0.1, now_);
  EXPECT_EQ(router.counts().ejections, 1U);
  EXPECT_EQ(Shares(Asks("digits")), (std::map<std::string, int>{{"far", 400}}));
  EXPECT_EQ(router.TakeDueProbes(now_ + 0.5).size(), 0U);
  ASSERT_EQ(router.TakeDueProbes(now_ + 1.5).size(), 1U);
  router.Probed(*peer, true, now_ + 1.6);
  EXPECT_EQ(Shares(Asks("digits")), (std::map<std::string, int>{{"near", 400}}));
  EXPECT_EQ(router.counts().restored, 1U);
}

TEST_F(RouterTest, AnEjectedOneIsTheLastResort) {
  Router& router = Start();
  router.SetEndpoints({Make("a"), Make("b")}, now_);
  const std::shared_ptr<Peer> a = Find("a");
  const std::shared_ptr<Peer> b = Find("b");
  router.Failed(*a, routing::Fault::kLost, {Code::kUnavailable, "x (not processed)"}, 0.1, now_);
  EXPECT_EQ(refused_, std::vector<std::string>{"a"});
  EXPECT_EQ(router.Choose(Asks("digits"), {}, now_).peer, b);
  EXPECT_EQ(router.Choose(Asks("digits"), {b->key}, now_).peer, a);
  EXPECT_EQ(router.Choose(Asks("digits"), {a->key, b->key}, now_).lack, Lack::kUntried);
}

TEST_F(RouterTest, ASequenceStaysWhenEndpointsCome) {
  Router& router = Start();
  router.SetEndpoints({Make("a"), Make("b")}, now_);
  std::map<std::string, std::string> homes;
  for (int i = 0; i < 50; ++i) {
    RequestHead first = Asks("digits");
    first.sequence = std::to_string(i);
    first.sequence_start = true;
    const Found found = router.Choose(first, {}, now_);
    router.Sent(first, *found.peer);
    homes[first.sequence] = found.peer->endpoint.id;
  }
  router.SetEndpoints({Make("a"), Make("b"), Make("c"), Make("d")}, now_);
  for (const auto& [sequence, home] : homes) {
    RequestHead next = Asks("digits");
    next.sequence = sequence;
    EXPECT_EQ(router.Choose(next, {}, now_).peer->endpoint.id, home);
  }
}

RequestHead Step(const std::string& sequence, bool start, bool end = false) {
  RequestHead head = Asks("digits");
  head.sequence = sequence;
  head.sequence_start = start;
  head.sequence_end = end;
  return head;
}

TEST_F(RouterTest, ALastRequestThatFoundNoRoomStaysAtHome) {
  routing::Policy policy;
  policy.max_in_flight_per_endpoint = 1;
  Router& router = Start(policy);
  router.SetEndpoints({Make("a"), Make("b")}, now_);
  const std::shared_ptr<Peer> home = router.Choose(Step("7", true), {}, now_).peer;
  ASSERT_NE(home, nullptr);
  router.Sent(Step("7", true), *home);
  router.Sent(Step("7", false, true), *home);
  EXPECT_EQ(router.Choose(Step("7", false, true), {}, now_).peer, home) << "it may be sent again";
  Running other;
  const Slot slot(home, &other, now_);
  EXPECT_EQ(router.Choose(Step("7", false, true), {}, now_).lack, Lack::kRoom) << "it waits for its home";
  EXPECT_EQ(router.Choose(Step("7", true), {}, now_).lack, Lack::kRoom) << "as its first one does: proxies agree";
  router.Ended(Step("7", false, true));
}

TEST_F(RouterTest, AHomeThatIsGoneIsSaid) {
  Router& router = Start();
  router.SetEndpoints({Make("a"), Make("b")}, now_);
  const std::shared_ptr<Peer> home = router.Choose(Step("7", true), {}, now_).peer;
  router.Sent(Step("7", true), *home);
  router.SetEndpoints({Make(home->endpoint.id == "a" ? "b" : "a")}, now_);
  EXPECT_EQ(router.Choose(Step("7", false), {}, now_).lack, Lack::kHome);
}

TEST_F(RouterTest, OneThatComesBackWhileItRunsIsTheSame) {
  Router& router = Start();
  router.SetEndpoints({Make("a")}, now_);
  const std::shared_ptr<Peer> before = Find("a");
  Running call;
  const Slot slot(before, &call, now_);
  router.SetEndpoints({}, now_);
  EXPECT_TRUE(before->gone);
  router.SetEndpoints({Make("a")}, now_);
  EXPECT_FALSE(before->gone);
  EXPECT_EQ(Find("a"), before);
  EXPECT_EQ(router.running(), 1U);
}

TEST_F(RouterTest, AnotherAddressIsAnotherPeer) {
  Router& router = Start();
  router.SetEndpoints({Make("a")}, now_);
  const std::shared_ptr<Peer> before = Find("a");
  Endpoint moved = Make("a");
  moved.address = "elsewhere:1";
  router.SetEndpoints({moved}, now_);
  EXPECT_NE(Find("a"), before);
  EXPECT_TRUE(before->gone);
}

}  // namespace
}  // namespace mesh::proxy
