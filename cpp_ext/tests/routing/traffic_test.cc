#include "routing/traffic.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "tests/routing/cases.h"

namespace mesh::routing {
namespace {

using nlohmann::json;

Traffic Read(const json& given) {
  std::vector<TrafficSplit> splits;
  for (const json& split : given.at("splits")) {
    Result<TrafficSplit> read = ParseTrafficSplit(split);
    if (!read.ok()) throw std::runtime_error(read.status().ToString());
    splits.push_back(std::move(read).value());
  }
  return Traffic(std::move(splits));
}

json Shown(const Sides& sides) {
  json shown = json::array();
  for (const auto& [split, side] : sides) shown.push_back({split, side});
  return shown;
}

json OfSplit(const json& side) { return json::array({json::array({"ab", side})}); }

double NoChance() { throw std::logic_error("chance decides nothing here"); }

// Every number must be drawn, and none more.
void RunRequest(const Traffic& traffic, const json& request, const json& endpoints) {
  SCOPED_TRACE(request);
  const json metadata = request.value("metadata", json::object());
  const std::vector<double> numbers = request.value("draws", std::vector<double>());
  std::string found;
  const Lookup lookup = [&](std::string_view name) {
    found = metadata.value(std::string(name), "");
    return std::string_view(found);
  };
  std::size_t drawn = 0;
  const Draw draw = [&] { return numbers.at(drawn++); };
  const std::string deployment = request.value("deployment", "");
  const std::string model = request.at("model");
  const Sides sides = traffic.SidesOf(deployment, model, lookup, draw);
  EXPECT_EQ(Shown(sides), request.at("sides"));
  json places = json::array();
  for (const json& endpoint : endpoints) {
    const std::string of = endpoint.at(0);
    places.push_back(static_cast<int>(traffic.PlaceOf(sides, of, endpoint.at(1))));
  }
  EXPECT_EQ(places, request.at("places"));
  if (request.contains("shadow")) {
    EXPECT_EQ(traffic.ShadowOf(deployment, model, draw), request.at("shadow"));
  }
  EXPECT_EQ(drawn, numbers.size());
}

TEST(TrafficTest, SidesOfRequests) {
  for (const json& given : Cases("traffic", "cases")) {
    SCOPED_TRACE(given.at("name"));
    const Traffic traffic = Read(given);
    EXPECT_EQ(traffic.empty(), given.at("splits").empty());
    for (const json& request : given.at("requests")) RunRequest(traffic, request, given.at("endpoints"));
  }
}

TEST(TrafficTest, SidesOfKeysAndSequences) {
  int seen = 0;
  for (const json& given : Cases("traffic", "cases")) {
    SCOPED_TRACE(given.at("name"));
    const Traffic traffic = Read(given);
    for (const json& key : given.value("keys", json::array())) {
      const std::string user = key.at(0);
      const auto lookup = [&](std::string_view name) { return name == "user" ? user : std::string_view(); };
      EXPECT_EQ(Shown(traffic.SidesOf("", "m", lookup, NoChance)), OfSplit(key.at(1))) << user;
      ++seen;
    }
    for (const json& sequence : given.value("sequences", json::array())) {
      const auto nothing = [](std::string_view) { return std::string_view(); };
      const std::string name = sequence.at(0);
      EXPECT_EQ(Shown(traffic.SidesOf("", "m", nothing, NoChance, name)), OfSplit(sequence.at(1))) << name;
      ++seen;
    }
  }
  EXPECT_GT(seen, 0);
}

TEST(TrafficTest, ARandomNumberOfOneStaysInside) {
  const json split = {{"name", "ab"}, {"sides", {{{"name", "a"}, {"weight", 3}}, {{"name", "b"}}}}};
  const Traffic traffic({ParseTrafficSplit(split).value()});
  const auto nothing = [](std::string_view) { return std::string_view(); };
  EXPECT_EQ(traffic.SidesOf("", "m", nothing, [] { return 1.0; }), (Sides{{"ab", "a"}}));
}

TEST(TrafficTest, ASplitThatIsGoneDecidesNothing) {
  EXPECT_EQ(Traffic().PlaceOf({{"ab", "a"}}, "rank-b", 1), Place::kOnSide);
}

TEST(TrafficRecordTest, ReadsWhatTheMasterWrites) {
  const char* text = R"({"namespace":"default","name":"shop","uid":"u","generation":"3","revision":"12","canaries":[{}],
    "later":7,"splits":[{"name":"ab","model":"m","key":"user","sides":[{"name":"a","weight":9500,"deployment":"x"},
    {"name":"new","revisions":["3",4]}],"matches":[{"header":"h","value":"v","side":"a"}],
    "shadow":{"deployment":"y","percent":2.5}}]})";
  const Result<TrafficRecord> read = ParseTrafficRecord(text, "key");
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  const TrafficRecord& record = read.value();
  EXPECT_EQ(record.name_space + '/' + record.name + ' ' + record.uid, "default/shop u");
  EXPECT_EQ(record.generation, 3);
  EXPECT_EQ(record.revision, 12);
  ASSERT_EQ(record.splits.size(), 1U);
  const TrafficSplit& split = record.splits[0];
  EXPECT_EQ(split.sides.at(0).weight, 9500U);
  EXPECT_EQ(split.sides.at(1).revisions, (std::vector<std::int64_t>{3, 4}));
  EXPECT_EQ(split.matches.at(0).side, "a");
  EXPECT_EQ(split.shadow_deployment, "y");
  EXPECT_EQ(split.shadow_percent, 2.5);
  EXPECT_TRUE(ParseTrafficRecord("{}", "key").ok());
}

TEST(TrafficRecordTest, SaysWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"[]", "not a JSON object"},
      {"{", "not JSON"},
      {R"({"generation":"x"})", "generation"},
      {R"({"splits":{}})", "splits"},
      {R"({"splits":[7]})", "splits"},
      {R"({"splits":[{"sides":[{"weight":-1}]}]})", "weight"},
      {R"({"splits":[{"sides":[{"weight":2147483648}]}]})", "weight"},
      {R"({"splits":[{"sides":[{"revisions":["one"]}]}]})", "revisions"},
      {R"({"splits":[{"sides":[{"revisions":[null]}]}]})", "revisions"},
      {R"({"splits":[{"sides":[{"revisions":"1"}]}]})", "revisions"},
      {R"({"splits":[{"matches":[{"value":1}]}]})", "value"},
      {R"({"splits":[{"shadow":{"percent":"much"}}]})", "percent"},
  };
  for (const auto& [text, word] : cases) {
    const Result<TrafficRecord> read = ParseTrafficRecord(text, "the key");
    ASSERT_FALSE(read.ok()) << text;
    EXPECT_EQ(read.status().code(), Code::kDataLoss) << text;
    EXPECT_NE(read.status().message().find(word), std::string::npos) << read.status().message();
    EXPECT_EQ(read.status().message().rfind("the key", 0), 0U) << read.status().message();
  }
}

}  // namespace
}  // namespace mesh::routing
