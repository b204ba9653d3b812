#include "user_code/settings.h"

#include <nlohmann/json.hpp>

#include "common/json.h"

namespace mesh::user {

using nlohmann::json;

Result<SettingsText> SettingsText::Read(std::string_view text, const char* what) {
  SettingsText settings;
  if (text.empty()) return settings;
  const Result<json> parsed = mesh::json::Parse(text, what);
  if (!parsed.ok()) return Status(Code::kInvalidArgument, parsed.status().message());
  settings.json_ = std::string(text);
  for (const auto& [name, value] : parsed.value().items()) {
    Member& member = settings.members_.emplace_back();
    member.name = name;
    if (value.is_boolean()) {
      member.value.kind = MESH_BOOL;
      member.value.boolean = value.get<bool>() ? 1 : 0;
    } else if (value.is_number_integer()) {
      member.value.kind = MESH_INTEGER;
      member.value.integer = value.get<std::int64_t>();
    } else if (value.is_number()) {
      member.value.kind = MESH_NUMBER;
      member.value.number = value.get<double>();
    } else {
      member.value.kind = value.is_string() ? MESH_TEXT : MESH_JSON;
      member.text = value.is_string() ? value.get<std::string>() : mesh::json::Dump(value);
    }
  }
  return settings;
}

MeshSettings SettingsText::view() const {
  values_.clear();
  for (const Member& member : members_) {
    MeshValue value = member.value;
    value.name = member.name.c_str();
    value.text = {member.text.data(), member.text.size()};
    values_.push_back(value);
  }
  return {values_.data(), values_.size(), {json_.data(), json_.size()}};
}

}  // namespace mesh::user
