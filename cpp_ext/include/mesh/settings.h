// What the spec says to a deployment: `args` of its constructor, `config` of Reconfigure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "mesh/abi.h"
#include "mesh/error.h"

namespace mesh {
inline namespace v1 {

// A JSON object; owns its values. Members that are not there have the value that is given as the default; one of
// another type is INVALID_ARGUMENT with its name.
class Settings {
 public:
  Settings() = default;
  Settings(std::string what, const MeshSettings& raw) : what_(std::move(what)), json_(raw.json.data, raw.json.size) {
    for (std::size_t index = 0; index < raw.count; ++index) {
      const MeshValue& value = raw.values[index];
      values_.emplace(value.name, Value{value.kind, value.boolean != 0, value.integer, value.number,
                                        std::string(value.text.data, value.text.size)});
    }
  }

  [[nodiscard]] bool Has(const std::string& name) const { return values_.count(name) != 0; }
  [[nodiscard]] bool Flag(const std::string& name, bool otherwise) const {
    const Value* value = Find(name, MESH_BOOL, "true or false");
    return value == nullptr ? otherwise : value->boolean;
  }
  [[nodiscard]] std::int64_t Integer(const std::string& name, std::int64_t otherwise) const {
    const Value* value = Find(name, MESH_INTEGER, "a whole number");
    return value == nullptr ? otherwise : value->integer;
  }
  [[nodiscard]] double Number(const std::string& name, double otherwise) const {
    const auto found = values_.find(name);
    if (found != values_.end() && found->second.kind == MESH_INTEGER) {
      return static_cast<double>(found->second.integer);
    }
    const Value* value = Find(name, MESH_NUMBER, "a number");
    return value == nullptr ? otherwise : value->number;
  }
  [[nodiscard]] std::string Text(const std::string& name, std::string otherwise) const {
    const Value* value = Find(name, MESH_TEXT, "a text");
    return value == nullptr ? std::move(otherwise) : value->text;
  }
  // An object or a list, as JSON text.
  [[nodiscard]] std::string Json(const std::string& name, std::string otherwise) const {
    const Value* value = Find(name, MESH_JSON, "an object or a list");
    return value == nullptr ? std::move(otherwise) : value->text;
  }
  // All of it as JSON text.
  [[nodiscard]] const std::string& json() const { return json_; }

 private:
  struct Value {
    std::int32_t kind;
    bool boolean;
    std::int64_t integer;
    double number;
    std::string text;
  };

  [[nodiscard]] const Value* Find(const std::string& name, std::int32_t kind, const char* wanted) const {
    const auto found = values_.find(name);
    if (found == values_.end()) return nullptr;
    if (found->second.kind == kind) return &found->second;
    throw Error(Code::kInvalidArgument, what_ + "." + name + " must be " + wanted);
  }

  std::string what_;
  std::string json_ = "{}";
  std::map<std::string, Value> values_;
};

}  // namespace v1
}  // namespace mesh
