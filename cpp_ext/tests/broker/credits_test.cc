// The sequences of tests/contract/broker, which Python runs as well.
#include "broker/credits.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace mesh::broker {
namespace {

using nlohmann::json;

constexpr double kSecond_us = 1e6;

json Cases() {
  std::ifstream stream(std::string(MESH_BROKER_CASES) + "/credits.json");
  json cases = json::parse(stream, nullptr, false);
  if (!cases.is_object() || cases.at("cases").empty()) throw std::runtime_error("there are no cases");
  return cases.at("cases");
}

TEST(CreditsTest, AgreeWithPython) {
  for (const json& one : Cases()) {
    Credits credits(1, one.at("most"), one.at("fixed"));
    std::vector<std::pair<std::int64_t, int>> wanted{{0, credits.wanted()}};
    const json& events = one.at("events");
    std::int64_t now = 0;
    for (std::size_t i = 0; i + 1 < events.size(); i += 2) {
      now += events[i].get<std::int64_t>();
      const auto took = events[i + 1].get<std::int64_t>();
      if (took > 0) {
        credits.Ended(static_cast<double>(now) / kSecond_us, static_cast<double>(took) / kSecond_us);
      } else {
        credits.Started(static_cast<double>(now) / kSecond_us);
      }
      if (credits.wanted() != wanted.back().second) {
        wanted.emplace_back(static_cast<std::int64_t>(i / 2 + 1), credits.wanted());
      }
    }
    EXPECT_EQ(json(wanted), one.at("wanted")) << one.at("name");
  }
}

TEST(CreditsTest, WhatTookNoTimeOrForEverIsNotMeasured) {
  Credits credits(1, 8);
  for (int i = 0; i < 100; ++i) {
    credits.Started(i);
    credits.Ended(i, i % 2 == 0 ? 0.0 : -1.0);
  }
  EXPECT_EQ(credits.wanted(), 1);
  EXPECT_EQ(credits.running(), 0);
  credits.Ended(200.0, 1.0);  // one that never began
  EXPECT_EQ(credits.running(), 0);
}

}  // namespace
}  // namespace mesh::broker
