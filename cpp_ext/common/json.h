// Protobuf's canonical JSON, read over nlohmann::json without exceptions. Absent and null fields read as the default;
// 64-bit integers may be strings or numbers; unknown fields are ignored. Errors name the field and what it holds.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace mesh::json {

// An object. DATA_LOSS otherwise; `what` names the text in the message.
Result<nlohmann::json> Parse(std::string_view text, std::string_view what);

Result<std::int64_t> Int64(const nlohmann::json& object, const char* field);
Result<double> Double(const nlohmann::json& object, const char* field);
Result<bool> Bool(const nlohmann::json& object, const char* field);
Result<std::string> String(const nlohmann::json& object, const char* field);
Result<std::vector<std::string>> Strings(const nlohmann::json& object, const char* field);
Result<std::map<std::string, std::string>> StringMap(const nlohmann::json& object, const char* field);
// A nested object; an empty one when the field is absent.
Result<nlohmann::json> Object(const nlohmann::json& object, const char* field);

// Text of a value; bytes that are not UTF-8 are replaced.
std::string Dump(const nlohmann::json& value);

// For readers of many fields: keeps the first error, so that each field needs one line.
//
//   Fields in(object);  config.id = in.String("id");  config.port = in.Int("listenPort");  return in.status();
class Fields {
 public:
  explicit Fields(const nlohmann::json& object) : object_(object) {}

  std::int64_t Int(const char* field) { return Take(Int64(object_, field)); }
  double Number(const char* field) { return Take(Double(object_, field)); }
  bool Flag(const char* field) { return Take(Bool(object_, field)); }
  std::string Text(const char* field) { return Take(String(object_, field)); }
  std::vector<std::string> Texts(const char* field) { return Take(Strings(object_, field)); }
  std::map<std::string, std::string> Map(const char* field) { return Take(StringMap(object_, field)); }
  nlohmann::json Nested(const char* field) { return Take(Object(object_, field)); }
  [[nodiscard]] bool Has(const char* field) const { return object_.contains(field) && !object_.at(field).is_null(); }
  // For a nested reader's outcome.
  void Note(const Status& status) {
    if (status_.ok()) status_ = status;
  }
  [[nodiscard]] const Status& status() const { return status_; }

 private:
  template <typename T>
  T Take(Result<T> result) {
    if (result.ok()) return std::move(result).value();
    Note(result.status());
    return T();
  }

  const nlohmann::json& object_;
  Status status_;
};

}  // namespace mesh::json
