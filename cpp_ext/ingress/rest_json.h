// Reading JSON of REST requests. The messages are those of `tritonserver`, which clients may know.
#pragma once

#include <rapidjson/document.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"

namespace mesh::ingress {

using Json = rapidjson::Value;

// Thrown by the functions below, and caught by ReadGuarded.
struct JsonFault {
  Status status;
};

// NaN and Infinity are numbers; nesting may be as deep as it likes. INTERNAL for what is no JSON, as there.
rapidjson::Document ParseJson(std::string_view text);

// Null where `object` is none, or has no such member.
const Json* FindMember(const Json& object, const char* name);
const Json& GetMember(const Json& object, const char* name);

std::string_view AsString(const Json& value);
bool AsBool(const Json& value);
std::int64_t AsInt(const Json& value);
std::uint64_t AsUint(const Json& value);
double AsDouble(const Json& value);
const Json& AsArray(const Json& value);

// What `read` returns; a fault of it gets "<what>: " before its message.
template <typename Read>
decltype(auto) Named(std::string_view what, Read read) {
  try {
    return read();
  } catch (const JsonFault& fault) {
    throw JsonFault{{fault.status.code(), std::string(what) + ": " + fault.status.message()}};
  }
}

template <typename Read>
Status ReadGuarded(Read read) {
  try {
    read();
    return {};
  } catch (const JsonFault& fault) {
    return fault.status;
  }
}

}  // namespace mesh::ingress
