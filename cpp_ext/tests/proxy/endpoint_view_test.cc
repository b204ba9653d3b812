#include "proxy/endpoint_view.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace mesh::proxy {
namespace {

using nlohmann::json;
using registry::Listing;
using registry::etcd::KeyValue;
using registry::etcd::WatchEvent;

const Application kShop{"default", "shop"};

json Record(const std::string& id) {
  return {{"id", id},
          {"address", "10.0.0.1:80"},
          {"protocol", "kserve-grpc"},
          {"role", "direct"},
          {"namespace", "default"},
          {"application", "shop"},
          {"deployment", "m"},
          {"state", "ready"},
          {"revision", "1"},
          {"generation", "1"},
          {"models", {{{"name", "digits"}, {"versions", {"1"}}}}}};
}

std::string KeyOf(const std::string& id) { return "/mesh/v1/endpoints/default/shop/direct/m/" + id; }

KeyValue Entry(const std::string& id, const json& changes = json::object()) {
  json record = Record(id);
  record.update(changes);
  KeyValue kv;
  kv.key = KeyOf(id);
  kv.value = record.dump();
  return kv;
}

Listing Listed(std::vector<KeyValue> kvs, bool replaced = false) {
  Listing listing;
  listing.kvs = std::move(kvs);
  listing.store_replaced = replaced;
  return listing;
}

std::string Ids(const EndpointView& view) {
  std::string ids;
  for (const Endpoint& endpoint : view.Current()) ids += endpoint.id;
  return ids;
}

TEST(EndpointTest, ReadsARecord) {
  const auto read =
      ParseEndpoint(kShop, KeyOf("a"), Entry("a", {{"weight", 7}, {"tls", true}, {"labels", {{"z", "1"}}}}).value);
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  const Endpoint& endpoint = read.value();
  EXPECT_EQ(endpoint.weight, 7U);
  EXPECT_TRUE(endpoint.tls);
  EXPECT_TRUE(endpoint.ready);
  EXPECT_EQ(endpoint.labels.at("z"), "1");
  EXPECT_TRUE(endpoint.Offers("digits", ""));
  EXPECT_TRUE(endpoint.Offers("digits", "1"));
  EXPECT_TRUE(endpoint.Offers("", ""));
  EXPECT_FALSE(endpoint.Offers("digits", "2"));
  EXPECT_FALSE(endpoint.Offers("letters", ""));
}

TEST(EndpointTest, SaysWhatIsWrong) {
  const std::pair<json, std::string> cases[] = {
      {{{"address", "nowhere"}}, "nowhere"},
      {{{"state", "gone"}}, "gone"},
      {{{"application", "other"}}, "belongs"},
      {{{"id", "b"}}, "belongs"},
      {{{"models", 5}}, "models"},
      {{{"protocol", "openai-http"}}, "openai-http"},
      {{{"generation", "x"}}, "generation"},
  };
  for (const auto& [changes, word] : cases) {
    const auto read = ParseEndpoint(kShop, KeyOf("a"), Entry("a", changes).value);
    ASSERT_FALSE(read.ok()) << changes.dump();
    EXPECT_NE(read.status().message().find(word), std::string::npos) << read.status().message();
  }
  EXPECT_FALSE(ParseEndpoint(kShop, KeyOf("a"), "{").ok());
}

TEST(EndpointViewTest, FollowsChanges) {
  EndpointView view(kShop);
  view.Apply(Listed({Entry("a"), Entry("b")}), 0.0);
  EXPECT_EQ(Ids(view), "ab");
  WatchEvent gone;
  gone.deleted = true;
  gone.kv.key = KeyOf("a");
  view.Apply({gone, WatchEvent{false, Entry("c")}}, 0.5);
  EXPECT_EQ(Ids(view), "bc");
  view.Apply(Listed({Entry("c")}), 1.0);
  EXPECT_EQ(Ids(view), "c") << "deleted while nobody looked";
}

TEST(EndpointViewTest, ADamagedRecordIsPassedOver) {
  EndpointView view(kShop);
  KeyValue damaged = Entry("a");
  damaged.value = "{";
  view.Apply(Listed({damaged, Entry("b")}), 0.0);
  EXPECT_EQ(Ids(view), "b");
}

TEST(EndpointViewTest, OlderGenerationsGoWhenANewerOneIsReady) {
  EndpointView view(kShop);
  view.Apply(Listed({Entry("a"), Entry("b", {{"generation", "2"}, {"state", "draining"}})}), 0.0);
  EXPECT_EQ(Ids(view), "ab") << "the newer one takes no work yet";
  view.Apply({WatchEvent{false, Entry("b", {{"generation", "2"}})}}, 1.0);
  EXPECT_EQ(Ids(view), "b");
}

TEST(EndpointViewTest, AReplacedStoreDeletesNothing) {
  EndpointView view(kShop);
  view.Apply(Listed({Entry("a"), Entry("b")}), 0.0);
  view.Apply(Listed({}, true), 10.0);
  EXPECT_EQ(Ids(view), "ab");
  EXPECT_EQ(view.next_expiry(), 10.0 + EndpointView::kCarryGraceS);
  view.Apply({WatchEvent{false, Entry("a")}}, 11.0);
  EXPECT_FALSE(view.Refused("a", "10.0.0.1:80")) << "it registered again: the store's word counts";
  view.Apply(Listed({Entry("a")}), 20.0);
  EXPECT_EQ(Ids(view), "ab") << "a further listing does not end the grace";
  EXPECT_FALSE(view.Expire(69.0));
  EXPECT_TRUE(view.Expire(70.0));
  EXPECT_EQ(Ids(view), "a");
}

TEST(EndpointViewTest, ACarriedOneThatRefusesIsGone) {
  EndpointView view(kShop);
  view.Apply(Listed({Entry("a"), Entry("b")}), 0.0);
  view.Apply(Listed({}, true), 10.0);
  EXPECT_FALSE(view.Refused("a", "10.0.0.9:80"));
  EXPECT_TRUE(view.Refused("a", "10.0.0.1:80"));
  EXPECT_EQ(Ids(view), "b");
}

TEST(EndpointViewTest, TheGraceStandsStillWhileEtcdIsAway) {
  EndpointView view(kShop);
  view.Apply(Listed({Entry("a")}), 0.0);
  view.Apply(Listed({}, true), 10.0);
  view.Pause(20.0);
  EXPECT_EQ(view.next_expiry(), std::nullopt);
  EXPECT_FALSE(view.Expire(1000.0));
  EXPECT_EQ(Ids(view), "a");
  view.Apply(Listed({}), 1000.0);
  EXPECT_EQ(view.next_expiry(), 1050.0);
  EXPECT_TRUE(view.Expire(1050.0));
  EXPECT_EQ(Ids(view), "");
}

std::string AddressOf(const EndpointView& view) {
  const std::vector<Endpoint> current = view.Current();
  return current.size() == 1 ? current[0].address : std::to_string(current.size()) + " endpoints";
}

// What the store held before: revision 5 at its own address. What the older store holds: revision 1.
TEST(EndpointViewTest, AnOlderStoreDoesNotBringBackAnOlderRecordAtOnce) {
  EndpointView view(kShop);
  view.Apply(Listed({Entry("a", {{"revision", "5"}, {"address", "10.0.0.5:80"}})}), 0.0);
  view.Apply(Listed({Entry("a")}, true), 10.0);
  EXPECT_EQ(AddressOf(view), "10.0.0.5:80");
  view.Apply(Listed({Entry("a")}), 20.0);
  EXPECT_EQ(AddressOf(view), "10.0.0.5:80") << "nobody has written it since";
  view.Apply(Listed({Entry("a")}, true), 50.0);
  EXPECT_EQ(view.next_expiry(), 70.0) << "a further replacement does not begin the grace anew";
  EXPECT_TRUE(view.Expire(70.0));
  EXPECT_EQ(AddressOf(view), "10.0.0.1:80") << "what the store holds shows again";
}

TEST(EndpointViewTest, WhatIsWrittenEndsTheCarrying) {
  EndpointView view(kShop);
  view.Apply(Listed({Entry("a", {{"revision", "5"}, {"address", "10.0.0.5:80"}})}), 0.0);
  view.Apply(Listed({Entry("a")}, true), 10.0);
  view.Apply({WatchEvent{false, Entry("a", {{"revision", "5"}, {"address", "10.0.0.6:80"}})}}, 11.0);
  EXPECT_EQ(AddressOf(view), "10.0.0.6:80");
  EXPECT_EQ(view.next_expiry(), std::nullopt);
}

}  // namespace
}  // namespace mesh::proxy
