#include "common/json.h"

#include <charconv>
#include <cmath>
#include <limits>

namespace mesh::json {
namespace {

using nlohmann::json;

const json* Find(const json& object, const char* field) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(field);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Status Wrong(const char* field, const char* expected, const json& found) {
  std::string text = Dump(found);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return {Code::kInvalidArgument, "field '" + std::string(field) + "' must be " + expected + ", not " + text};
}

template <typename T>
bool ParseNumber(const std::string& text, T* value) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), *value);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && !text.empty();
}

}  // namespace

Result<json> Parse(std::string_view text, std::string_view what) {
  json parsed = json::parse(text, nullptr, false);
  if (parsed.is_discarded()) return Status(Code::kDataLoss, std::string(what) + " is not JSON");
  if (!parsed.is_object()) return Status(Code::kDataLoss, std::string(what) + " is not a JSON object");
  return parsed;
}

Result<std::int64_t> Int64(const json& object, const char* field) {
  const json* value = Find(object, field);
  if (value == nullptr) return std::int64_t{0};
  if (value->is_number_unsigned() &&
      value->get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return Wrong(field, "a 64-bit integer", *value);
  }
  if (value->is_number_integer()) return value->get<std::int64_t>();
  std::int64_t number = 0;
  if (value->is_string() && ParseNumber(value->get_ref<const std::string&>(), &number)) return number;
  // Canonical JSON allows 1e3 and 5.0 for integers.
  if (value->is_number_float()) {
    const double real = value->get<double>();
    if (std::floor(real) == real && std::fabs(real) < 9007199254740992.0) return static_cast<std::int64_t>(real);
  }
  return Wrong(field, "a 64-bit integer", *value);
}

Result<double> Double(const json& object, const char* field) {
  const json* value = Find(object, field);
  if (value == nullptr) return 0.0;
  if (value->is_number()) return value->get<double>();
  double number = 0;
  if (value->is_string() && ParseNumber(value->get_ref<const std::string&>(), &number)) return number;
  return Wrong(field, "a number", *value);
}

Result<bool> Bool(const json& object, const char* field) {
  const json* value = Find(object, field);
  if (value == nullptr) return false;
  if (value->is_boolean()) return value->get<bool>();
  return Wrong(field, "true or false", *value);
}

Result<std::string> String(const json& object, const char* field) {
  const json* value = Find(object, field);
  if (value == nullptr) return std::string();
  if (value->is_string()) return value->get<std::string>();
  return Wrong(field, "a string", *value);
}

Result<std::vector<std::string>> Strings(const json& object, const char* field) {
  std::vector<std::string> strings;
  const json* value = Find(object, field);
  if (value == nullptr) return strings;
  if (!value->is_array()) return Wrong(field, "a list of strings", *value);
  for (const json& entry : *value) {
    if (!entry.is_string()) return Wrong(field, "a list of strings", *value);
    strings.push_back(entry.get<std::string>());
  }
  return strings;
}

Result<std::map<std::string, std::string>> StringMap(const json& object, const char* field) {
  std::map<std::string, std::string> strings;
  const json* value = Find(object, field);
  if (value == nullptr) return strings;
  if (!value->is_object()) return Wrong(field, "an object of strings", *value);
  for (const auto& [key, entry] : value->items()) {
    if (!entry.is_string()) return Wrong(field, "an object of strings", *value);
    strings.emplace(key, entry.get<std::string>());
  }
  return strings;
}

Result<json> Object(const json& object, const char* field) {
  const json* value = Find(object, field);
  if (value == nullptr) return json::object();
  if (value->is_object()) return *value;
  return Wrong(field, "an object", *value);
}

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace mesh::json
