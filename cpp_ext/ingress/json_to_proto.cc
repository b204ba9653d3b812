#include "ingress/json_to_proto.h"

#include <cerrno>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <protozero/pbf_writer.hpp>
#include <type_traits>

namespace mesh::ingress {
namespace {

using Json = nlohmann::json;
using protozero::pbf_writer;

constexpr int kMaxDepth = 64;

// The value does not fit; turned into a Status at the edge of this file.
struct Mismatch {
  std::string path;
};

// Protobuf's JSON writes 64-bit integers, and numbers such as NaN, as strings.
template <typename T>
T Number(const Json& json, const std::string& path) {
  if constexpr (std::is_integral_v<T>) {
    if (json.is_number_integer()) return json.get<T>();
    if (!json.is_string()) throw Mismatch{path};
    const std::string text = json.get<std::string>();
    char* end = nullptr;
    errno = 0;
    const T value = std::is_signed_v<T> ? static_cast<T>(std::strtoll(text.c_str(), &end, 10))
                                        : static_cast<T>(std::strtoull(text.c_str(), &end, 10));
    if (text.empty() || *end != '\0' || errno != 0) throw Mismatch{path};
    return value;
  } else {
    if (json.is_number()) return json.get<T>();
    if (!json.is_string()) throw Mismatch{path};
    const std::string text = json.get<std::string>();
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);  // knows "NaN" and "Infinity"
    if (text.empty() || *end != '\0') throw Mismatch{path};
    return static_cast<T>(value);
  }
}

bool Bool(const Json& json, const std::string& path) {
  if (json.is_boolean()) return json.get<bool>();
  if (json == "true") return true;  // keys of maps are strings
  if (json == "false") return false;
  throw Mismatch{path};
}

std::int32_t Enum(const Json& json, const EnumTable& table, const std::string& path) {
  if (!json.is_string()) return Number<std::int32_t>(json, path);
  const std::string text = json.get<std::string>();
  for (std::size_t i = 0; i < table.size; ++i) {
    if (table.values[i].name == text) return table.values[i].number;
  }
  throw Mismatch{path};
}

void WriteMessage(pbf_writer* out, const Json& json, const MessageTable& table, const std::string& path, int depth);

// A nested pbf_writer would leave out a message without fields, but its presence means something: "dynamic_batching
// {}".
void WriteNested(pbf_writer* out, std::uint32_t number, const Json& json, const MessageTable& table,
                 const std::string& path, int depth) {
  std::string nested;
  pbf_writer writer(nested);
  WriteMessage(&writer, json, table, path, depth);
  out->add_message(number, nested);
}

// Writes the value unless it is the default of a field without presence.
template <typename T, typename Add>
void Unless(bool skip_default, const T& value, Add add) {
  if (!skip_default || value != T{}) add(value);
}

void WriteScalar(pbf_writer* out, const Json& json, const FieldTable& field, bool skip, const std::string& path) {
  const std::uint32_t tag = field.number;
  switch (field.kind) {
    case Kind::kBool: return Unless(skip, Bool(json, path), [&](bool v) { out->add_bool(tag, v); });
    case Kind::kInt32: return Unless(skip, Number<std::int32_t>(json, path), [&](auto v) { out->add_int32(tag, v); });
    case Kind::kInt64: return Unless(skip, Number<std::int64_t>(json, path), [&](auto v) { out->add_int64(tag, v); });
    case Kind::kUint32:
      return Unless(skip, Number<std::uint32_t>(json, path), [&](auto v) { out->add_uint32(tag, v); });
    case Kind::kUint64:
      return Unless(skip, Number<std::uint64_t>(json, path), [&](auto v) { out->add_uint64(tag, v); });
    case Kind::kFloat: return Unless(skip, Number<float>(json, path), [&](auto v) { out->add_float(tag, v); });
    case Kind::kDouble: return Unless(skip, Number<double>(json, path), [&](auto v) { out->add_double(tag, v); });
    case Kind::kEnum: return Unless(skip, Enum(json, *field.values, path), [&](auto v) { out->add_enum(tag, v); });
    case Kind::kString:
      if (!json.is_string()) throw Mismatch{path};
      return Unless(skip, json.get<std::string>(), [&](const std::string& v) { out->add_string(tag, v); });
    case Kind::kMessage:
    case Kind::kMap: break;
  }
  throw Mismatch{path};
}

template <typename Packed, typename Read>
void WritePacked(pbf_writer* out, const Json& json, const FieldTable& field, Read read) {
  Packed packed(*out, field.number);
  for (const Json& element : json) packed.add_element(read(element));
}

void WriteRepeatedScalar(pbf_writer* out, const Json& json, const FieldTable& field, const std::string& path) {
  using namespace protozero;  // NOLINT(google-build-using-namespace): seven names of one library
  switch (field.kind) {
    case Kind::kString:
      for (const Json& element : json) WriteScalar(out, element, field, false, path);
      return;
    case Kind::kBool: return WritePacked<packed_field_bool>(out, json, field, [&](auto& e) { return Bool(e, path); });
    case Kind::kInt32:
      return WritePacked<packed_field_int32>(out, json, field, [&](auto& e) { return Number<std::int32_t>(e, path); });
    case Kind::kInt64:
      return WritePacked<packed_field_int64>(out, json, field, [&](auto& e) { return Number<std::int64_t>(e, path); });
    case Kind::kUint32:
      return WritePacked<packed_field_uint32>(out, json, field,
                                              [&](auto& e) { return Number<std::uint32_t>(e, path); });
    case Kind::kUint64:
      return WritePacked<packed_field_uint64>(out, json, field,
                                              [&](auto& e) { return Number<std::uint64_t>(e, path); });
    case Kind::kFloat:
      return WritePacked<packed_field_float>(out, json, field, [&](auto& e) { return Number<float>(e, path); });
    case Kind::kDouble:
      return WritePacked<packed_field_double>(out, json, field, [&](auto& e) { return Number<double>(e, path); });
    case Kind::kEnum:
      return WritePacked<packed_field_enum>(out, json, field, [&](auto& e) { return Enum(e, *field.values, path); });
    case Kind::kMessage:
    case Kind::kMap: break;
  }
  throw Mismatch{path};
}

void WriteMap(pbf_writer* out, const Json& json, const FieldTable& field, const std::string& path, int depth) {
  if (!json.is_object()) throw Mismatch{path};
  for (const auto& [key, value] : json.items()) {
    const Json entry{{"key", key}, {"value", value}};
    std::string place = path;
    WriteNested(out, field.number, entry, *field.message, place.append(".").append(key), depth);
  }
}

void WriteField(pbf_writer* out, const Json& json, const FieldTable& field, const std::string& path, int depth) {
  if (field.kind == Kind::kMap) return WriteMap(out, json, field, path, depth);
  if (field.repeated) {
    if (!json.is_array()) throw Mismatch{path};
    if (json.empty()) return;
    if (field.kind != Kind::kMessage) return WriteRepeatedScalar(out, json, field, path);
    for (const Json& element : json) WriteNested(out, field.number, element, *field.message, path, depth);
    return;
  }
  if (field.kind != Kind::kMessage) return WriteScalar(out, json, field, !field.presence, path);
  WriteNested(out, field.number, json, *field.message, path, depth);
}

void WriteMessage(pbf_writer* out, const Json& json, const MessageTable& table, const std::string& path, int depth) {
  if (!json.is_object() || depth > kMaxDepth) throw Mismatch{path};
  for (std::size_t i = 0; i < table.size; ++i) {
    const FieldTable& field = table.fields[i];
    const auto found = json.find(std::string(field.name));
    if (found == json.end() || found->is_null()) continue;
    WriteField(out, *found, field, path + "." + std::string(field.name), depth + 1);
  }
}

}  // namespace

Result<std::string> JsonToProto(std::string_view json, const MessageTable& table) {
  const Json parsed = Json::parse(json.begin(), json.end(), nullptr, false);
  const std::string name(table.name);
  if (parsed.is_discarded()) return Status(Code::kInternal, "Triton's " + name + " is not JSON");
  std::string encoded;
  try {
    pbf_writer out(encoded);
    WriteMessage(&out, parsed, table, name, 0);
  } catch (const Mismatch& mismatch) {
    return Status(Code::kInternal, "Triton's " + mismatch.path + " has a value of another type than expected");
  }
  return encoded;
}

Result<std::string> JsonArrayToProto(std::string_view json, std::uint32_t number, const MessageTable& table) {
  const FieldTable field{"items", number, Kind::kMessage, true, false, &table, nullptr};
  const MessageTable wrapper{table.name, &field, 1};
  std::string wrapped = "{\"items\":";
  wrapped.append(json).append("}");
  return JsonToProto(wrapped, wrapper);
}

}  // namespace mesh::ingress
