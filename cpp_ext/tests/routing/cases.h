// The cases of tests/contract/routing, which Python runs as well.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace mesh::routing {

inline nlohmann::json Cases(const std::string& file) {
  const std::string path = std::string(MESH_ROUTING_CASES) + "/" + file + ".json";
  std::ifstream stream(path);
  nlohmann::json cases = nlohmann::json::parse(stream, nullptr, false);
  if (!cases.is_object()) throw std::runtime_error(path + " is not there or no JSON object");
  return cases;
}

// A list of a file that must not be empty.
inline nlohmann::json Cases(const std::string& file, const char* list) {
  nlohmann::json cases = Cases(file).at(list);
  if (cases.empty()) throw std::runtime_error(file + "." + list + " has no cases");
  return cases;
}

inline int Times(const nlohmann::json& step) { return step.value("times", 1); }

}  // namespace mesh::routing
