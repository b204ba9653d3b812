#include "registry/fencing.h"

#include <algorithm>

#include "common/json.h"

namespace mesh::registry {
namespace {

constexpr std::size_t kRemembered = 4;

}  // namespace

std::int64_t GenerationOf(std::string_view endpoint_json) {
  const Result<nlohmann::json> parsed = json::Parse(endpoint_json, "endpoint");
  if (!parsed.ok()) return 0;
  const Result<std::int64_t> generation = json::Int64(parsed.value(), "generation");
  return generation.ok() ? generation.value() : 0;
}

void Ownership::Wrote(const std::string& value) {
  written_.push_back(value);
  if (written_.size() > kRemembered) written_.pop_front();
}

std::string Ownership::WhyNot(const etcd::KeyValue& existing, std::string_view value) const {
  if (existing.lease != 0 && existing.lease == last_lease_) return {};
  if (std::find(written_.begin(), written_.end(), existing.value) != written_.end()) return {};  // a restored backup
  const std::int64_t theirs = GenerationOf(existing.value);
  const std::int64_t ours = GenerationOf(value);
  if (theirs > ours) {
    return "the key belongs to generation " + std::to_string(theirs) + ", this process is of generation " +
           std::to_string(ours);
  }
  // A first registration replaces what a dead predecessor of the same name left; after that the newcomer is the other.
  if (theirs == ours && !written_.empty()) return "another process of the same generation took the key over";
  return {};
}

}  // namespace mesh::registry
