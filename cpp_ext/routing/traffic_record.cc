// The records of routing/traffic.h, read from canonical JSON.
#include <limits>
#include <string>
#include <utility>

#include "common/json.h"
#include "routing/traffic.h"

namespace mesh::routing {
namespace {

using nlohmann::json;

Status Wrong(const std::string& field, const std::string& why) {
  return {Code::kInvalidArgument, "field '" + field + "' " + why};
}

// Each entry of the list at `field` through `read`, which notes in its Fields what is wrong.
template <typename T, typename Read>
std::vector<T> ReadList(mesh::json::Fields& in, const json& object, const char* field, Read read) {
  std::vector<T> entries;
  if (!in.Has(field)) return entries;
  const json& list = object.at(field);
  if (!list.is_array()) {
    in.Note(Wrong(field, "must be a list"));
    return entries;
  }
  for (const json& entry : list) {
    if (!entry.is_object()) {
      in.Note(Wrong(field, "must be a list of objects"));
      return entries;
    }
    Result<T> made = read(entry);
    if (made.ok()) {
      entries.push_back(std::move(made).value());
    } else {
      in.Note({made.status().code(), std::string(field) + ": " + made.status().message()});
    }
  }
  return entries;
}

// 64-bit integers, as strings or numbers.
std::vector<std::int64_t> ReadNumbers(mesh::json::Fields& in, const json& object, const char* field) {
  std::vector<std::int64_t> numbers;
  if (!in.Has(field)) return numbers;
  const json& list = object.at(field);
  if (!list.is_array()) {
    in.Note(Wrong(field, "must be a list"));
    return numbers;
  }
  for (const json& entry : list) {
    const json wrapped = {{field, entry}};
    mesh::json::Fields one(wrapped);
    if (!one.Has(field)) in.Note(Wrong(field, "must be a list of 64-bit integers, not of nulls"));
    numbers.push_back(one.Int(field));
    in.Note(one.status());
  }
  return numbers;
}

Result<TrafficSide> ReadSide(const json& object) {
  mesh::json::Fields in(object);
  TrafficSide side;
  side.name = in.Text("name");
  side.deployment = in.Text("deployment");
  side.revisions = ReadNumbers(in, object, "revisions");
  const std::int64_t weight = in.Int("weight");
  if (weight < 0 || weight > std::numeric_limits<std::int32_t>::max()) {
    in.Note(Wrong("weight", "must be from 0 to 2147483647, not " + std::to_string(weight)));
  } else {
    side.weight = static_cast<std::uint32_t>(weight);
  }
  if (!in.status().ok()) return in.status();
  return side;
}

Result<HeaderMatch> ReadMatch(const json& object) {
  mesh::json::Fields in(object);
  HeaderMatch match{in.Text("header"), in.Text("value"), in.Text("side")};
  if (!in.status().ok()) return in.status();
  return match;
}

}  // namespace

Result<TrafficSplit> ParseTrafficSplit(const json& object) {
  mesh::json::Fields in(object);
  TrafficSplit split;
  split.name = in.Text("name");
  split.deployment = in.Text("deployment");
  split.model = in.Text("model");
  split.sides = ReadList<TrafficSide>(in, object, "sides", ReadSide);
  split.key = in.Text("key");
  split.matches = ReadList<HeaderMatch>(in, object, "matches", ReadMatch);
  const json nested = in.Nested("shadow");
  mesh::json::Fields shadow(nested);
  split.shadow_deployment = shadow.Text("deployment");
  split.shadow_percent = shadow.Number("percent");
  in.Note(shadow.status());
  if (!in.status().ok()) return in.status();
  return split;
}

Result<TrafficRecord> ParseTrafficRecord(std::string_view text, std::string_view what) {
  const Result<json> parsed = mesh::json::Parse(text, what);
  if (!parsed.ok()) return parsed.status();
  mesh::json::Fields in(parsed.value());
  TrafficRecord record;
  record.name_space = in.Text("namespace");
  record.name = in.Text("name");
  record.uid = in.Text("uid");
  record.generation = in.Int("generation");
  record.revision = in.Int("revision");
  record.version = in.Int("version");
  record.splits = ReadList<TrafficSplit>(in, parsed.value(), "splits", ParseTrafficSplit);
  if (!in.status().ok()) return Status(Code::kDataLoss, std::string(what) + ": " + in.status().message());
  return record;
}

}  // namespace mesh::routing
