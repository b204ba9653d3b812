#include "proxy/traffic_view.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace mesh::proxy {
namespace {

using nlohmann::json;
using registry::Listing;
using registry::etcd::KeyValue;
using registry::etcd::WatchEvent;

const char kKey[] = "/mesh/v1/apps/default/shop/traffic";

std::string Record(const std::string& split, int generation = 1, int version = 1, const std::string& uid = "u") {
  return json{{"namespace", "default"},
              {"name", "shop"},
              {"uid", uid},
              {"generation", std::to_string(generation)},
              {"version", std::to_string(version)},
              {"splits", {{{"name", split}}}}}
      .dump();
}

KeyValue Entry(const std::string& value, const std::string& key = kKey) {
  KeyValue kv;
  kv.key = key;
  kv.value = value;
  return kv;
}

constexpr char kAbsent[] = "absent";

Listing Listed(const std::string& value, bool replaced = false) {
  Listing listing;
  if (value != kAbsent) listing.kvs = {Entry(value)};
  listing.store_replaced = replaced;
  return listing;
}

std::vector<WatchEvent> Put(const std::string& value, const std::string& key = kKey) {
  return {{false, Entry(value, key)}};
}

std::vector<WatchEvent> Deleted(const std::string& key = kKey) { return {{true, Entry("", key)}}; }

class TrafficViewTest : public testing::Test {
 protected:
  std::string Splits() {
    std::string names;
    for (const routing::TrafficSplit& split : view_.current().splits) names += split.name;
    return names;
  }

  TrafficView view_{{"default", "shop"}};
};

TEST_F(TrafficViewTest, NothingThereIsNoSplits) {
  EXPECT_FALSE(view_.Apply(Listed(kAbsent)));
  EXPECT_EQ(Splits(), "");
}

TEST_F(TrafficViewTest, FollowsTheKey) {
  EXPECT_TRUE(view_.Apply(Listed(Record("a"))));
  EXPECT_EQ(Splits(), "a");
  EXPECT_FALSE(view_.Apply(Listed(Record("a")))) << "nothing new";
  EXPECT_FALSE(view_.Apply(Put(Record("a"))));
  EXPECT_TRUE(view_.Apply(Put(Record("b"))));
  EXPECT_FALSE(view_.Apply(Put(Record("c"), std::string(kKey) + "-other")));
  EXPECT_FALSE(view_.Apply(Deleted(std::string(kKey) + "-other")));
  EXPECT_EQ(Splits(), "b");
  EXPECT_TRUE(view_.Apply(Deleted()));
  EXPECT_EQ(Splits(), "");
  EXPECT_TRUE(view_.Apply(Put(Record("d"))));
  EXPECT_TRUE(view_.Apply(Listed(kAbsent))) << "deleted while etcd was not heard";
  EXPECT_EQ(Splits(), "");
}

TEST_F(TrafficViewTest, AllChangesOfOneAnswerCount) {
  std::vector<WatchEvent> events = Put(Record("a"));
  events.push_back(Deleted().front());
  EXPECT_TRUE(view_.Apply(events));
  EXPECT_EQ(Splits(), "");
  events = Deleted();
  events.push_back(Put(Record("b")).front());
  EXPECT_TRUE(view_.Apply(events));
  EXPECT_EQ(Splits(), "b");
}

TEST_F(TrafficViewTest, WhatCannotBeReadChangesNothing) {
  EXPECT_FALSE(view_.Apply(Listed("rubbish")));
  EXPECT_TRUE(view_.Apply(Put(Record("a"))));
  for (const char* value : {"", "{", "[]", R"({"splits":7})", R"({"namespace":"default","name":"other"})"}) {
    EXPECT_FALSE(view_.Apply(Put(value))) << value;
    EXPECT_FALSE(view_.Apply(Listed(value))) << value;
  }
  EXPECT_EQ(Splits(), "a");
  EXPECT_TRUE(view_.Apply(Put(Record("b")))) << "until one can be read again";
  EXPECT_TRUE(view_.Apply(Put("{}")));
  EXPECT_EQ(Splits(), "") << "an empty record is one";
}

TEST_F(TrafficViewTest, AReplacedStoreWithoutTheKeyChangesNothing) {
  view_.Apply(Listed(Record("a")));
  EXPECT_FALSE(view_.Apply(Listed(kAbsent, true)));
  EXPECT_FALSE(view_.Apply(Listed(kAbsent))) << "nor does it when it is read again";
  EXPECT_FALSE(view_.Apply(Listed(kAbsent, true)));
  EXPECT_EQ(Splits(), "a");
  EXPECT_TRUE(view_.Apply(Put(Record("b"))));
  EXPECT_TRUE(view_.Apply(Listed(kAbsent))) << "from then on it counts again";
  EXPECT_EQ(Splits(), "");
}

TEST_F(TrafficViewTest, AnOlderRecordOfAReplacedStoreIsNotTakenOver) {
  view_.Apply(Listed(Record("a", 2, 5)));
  for (const std::string& older : {Record("o", 1, 9), Record("o", 2, 4), Record("o", 1, 9, "v")}) {
    EXPECT_FALSE(view_.Apply(Listed(older, true))) << older;
    EXPECT_FALSE(view_.Apply(Listed(older))) << older;
    EXPECT_EQ(Splits(), "a");
  }
  EXPECT_TRUE(view_.Apply(Put(Record("o", 1, 9, "v")))) << "somebody writes it now";
  EXPECT_EQ(Splits(), "o");
}

TEST_F(TrafficViewTest, ANewerRecordOfAReplacedStoreIs) {
  for (const std::string& newer : {Record("n", 3, 1), Record("n", 2, 6), Record("n", 2, 5), Record("n", 2, 1, "v")}) {
    TrafficView view({"default", "shop"});
    view.Apply(Listed(Record("a", 2, 5)));
    EXPECT_TRUE(view.Apply(Listed(newer, true))) << newer;
    EXPECT_EQ(view.current().splits.at(0).name, "n");
  }
}

TEST_F(TrafficViewTest, ALowerRevisionMayBeWritten) {
  view_.Apply(Listed(Record("a", 2, 5)));
  EXPECT_TRUE(view_.Apply(Listed(Record("b", 2, 4)))) << "the store is the same: it is the truth";
  EXPECT_TRUE(view_.Apply(Put(Record("c", 1, 1))));
  EXPECT_EQ(Splits(), "c");
}

}  // namespace
}  // namespace mesh::proxy
