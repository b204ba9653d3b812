#include "ingress/rest_json.h"

#include <rapidjson/error/en.h>

namespace mesh::ingress {
namespace {

[[noreturn]] void Fault(std::string message) { throw JsonFault{{Code::kInternal, std::move(message)}}; }

}  // namespace

rapidjson::Document ParseJson(std::string_view text) {
  rapidjson::Document document;
  // Not the recursive parser: a request must not choose how deep the stack becomes.
  document.Parse<rapidjson::kParseNanAndInfFlag | rapidjson::kParseIterativeFlag>(text.data(), text.size());
  if (document.HasParseError()) {
    Fault(std::string("failed to parse the request JSON buffer: ") +
          rapidjson::GetParseError_En(document.GetParseError()) + " at " + std::to_string(document.GetErrorOffset()));
  }
  return document;
}

const Json* FindMember(const Json& object, const char* name) {
  if (!object.IsObject()) return nullptr;
  const auto found = object.FindMember(name);
  return found == object.MemberEnd() ? nullptr : &found->value;
}

const Json& GetMember(const Json& object, const char* name) {
  const Json* found = FindMember(object, name);
  if (found == nullptr) Fault(std::string("attempt to access non-existing object member '") + name + "'");
  return *found;
}

std::string_view AsString(const Json& value) {
  if (!value.IsString()) Fault("attempt to access JSON non-string as string");
  return {value.GetString(), value.GetStringLength()};
}

bool AsBool(const Json& value) {
  if (!value.IsBool()) Fault("attempt to access JSON non-boolean as boolean");
  return value.GetBool();
}

std::int64_t AsInt(const Json& value) {
  if (!value.IsInt64()) Fault("attempt to access JSON non-signed-integer as signed-integer");
  return value.GetInt64();
}

std::uint64_t AsUint(const Json& value) {
  if (!value.IsUint64()) Fault("attempt to access JSON non-unsigned-integer as unsigned-integer");
  return value.GetUint64();
}

double AsDouble(const Json& value) {
  if (!value.IsNumber()) Fault("attempt to access JSON non-number as double");
  return value.GetDouble();
}

const Json& AsArray(const Json& value) {
  if (!value.IsArray()) Fault("attempt to access JSON non-array as array");
  return value;
}

}  // namespace mesh::ingress
