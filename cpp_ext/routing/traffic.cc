#include "routing/traffic.h"

#include <algorithm>
#include <utility>

namespace mesh::routing {

Split::Split(TrafficSplit record) : record_(std::move(record)) {
  std::uint64_t sum = 0;
  for (const TrafficSide& side : record_.sides) {
    members_.emplace_back(side.name, side.weight);
    bounds_.push_back(sum += side.weight);
  }
}

bool Split::IsAbout(std::string_view deployment, std::string_view model) const {
  if (!record_.deployment.empty()) return deployment.empty() || deployment == record_.deployment;
  return deployment.empty() && (record_.model.empty() || record_.model == model);
}

// Where two have one name, the later one counts.
const TrafficSide* Split::SideNamed(std::string_view name) const {
  const auto found = std::find_if(record_.sides.rbegin(), record_.sides.rend(),
                                  [&](const TrafficSide& side) { return side.name == name; });
  return found == record_.sides.rend() ? nullptr : &*found;
}

std::string Split::Choose(const Lookup& lookup, std::string_view sequence, const Draw& draw) const {
  for (const HeaderMatch& match : record_.matches) {
    if (SideNamed(match.side) != nullptr && lookup(match.header) == match.value) return match.side;
  }
  const std::uint64_t sum = bounds_.empty() ? 0 : bounds_.back();
  if (sum == 0) return {};
  std::string_view key = record_.key.empty() ? std::string_view() : lookup(record_.key);
  if (key.empty()) key = sequence;
  if (!key.empty()) {  // each split draws anew: who is first in one is not in all
    const std::string salted = record_.name + '\0' + std::string(key);
    const auto best =
        RendezvousBest(salted, members_, [this](std::size_t index) { return members_[index].weight > 0; });
    return best ? members_[*best].id : std::string();
  }
  // A generator that answers 1.0, against the rules, must not lead outside of the sides.
  const std::uint64_t at = std::min(static_cast<std::uint64_t>(draw() * static_cast<double>(sum)), sum - 1);
  const auto side = std::upper_bound(bounds_.begin(), bounds_.end(), at) - bounds_.begin();
  return members_[static_cast<std::size_t>(side)].id;
}

// The side that has the endpoint; null for none.
const TrafficSide* Split::SideOf(std::string_view deployment, std::int64_t revision) const {
  const std::vector<TrafficSide>& sides = record_.sides;
  if (record_.deployment.empty()) {
    const auto of = [&](const TrafficSide& side) { return side.deployment == deployment; };
    const auto found = std::find_if(sides.begin(), sides.end(), of);
    return found == sides.end() ? nullptr : SideNamed(found->name);
  }
  const auto named = [&](const TrafficSide& side) {
    return std::find(side.revisions.begin(), side.revisions.end(), revision) != side.revisions.end();
  };
  if (const auto found = std::find_if(sides.rbegin(), sides.rend(), named); found != sides.rend()) {
    return SideNamed(found->name);
  }
  const auto rest =
      std::find_if(sides.begin(), sides.end(), [](const TrafficSide& side) { return side.revisions.empty(); });
  return rest == sides.end() ? nullptr : SideNamed(rest->name);
}

Place Split::PlaceOf(std::string_view chosen, std::string_view deployment, std::int64_t revision) const {
  if (!record_.deployment.empty() && deployment != record_.deployment) return Place::kOnSide;  // nothing to do with it
  const TrafficSide* side = SideOf(deployment, revision);
  if (side == nullptr) return Place::kNever;
  if (side->name == chosen) return Place::kOnSide;
  return side->weight > 0 ? Place::kSpare : Place::kNever;
}

Traffic::Traffic(std::vector<TrafficSplit> splits) {
  for (TrafficSplit& split : splits) {
    const auto same = std::find_if(splits_.begin(), splits_.end(),
                                   [&](const Split& known) { return known.record().name == split.name; });
    if (same == splits_.end()) {
      splits_.emplace_back(std::move(split));
    } else {
      *same = Split(std::move(split));  // of two with one name the later one counts
    }
  }
}

Sides Traffic::SidesOf(std::string_view deployment, std::string_view model, const Lookup& lookup, const Draw& draw,
                       std::string_view sequence) const {
  Sides chosen;
  for (const Split& split : splits_) {
    if (!split.IsAbout(deployment, model)) continue;
    std::string side = split.Choose(lookup, sequence, draw);
    if (!side.empty()) chosen.emplace_back(split.record().name, std::move(side));
  }
  return chosen;
}

Place Traffic::PlaceOf(const Sides& sides, std::string_view deployment, std::int64_t revision) const {
  Place worst = Place::kOnSide;
  for (const auto& [name, side] : sides) {
    const Split* split = Find(name);
    if (split != nullptr) worst = std::max(worst, split->PlaceOf(side, deployment, revision));
  }
  return worst;
}

std::string Traffic::ShadowOf(std::string_view deployment, std::string_view model, const Draw& draw) const {
  for (const Split& split : splits_) {
    const TrafficSplit& record = split.record();
    if (record.shadow_deployment.empty() || !split.IsAbout(deployment, model)) continue;
    if (draw() * 100.0 < record.shadow_percent) return record.shadow_deployment;
  }
  return {};
}

const Split* Traffic::Find(std::string_view name) const {
  const auto found =
      std::find_if(splits_.begin(), splits_.end(), [&](const Split& split) { return split.record().name == name; });
  return found == splits_.end() ? nullptr : &*found;
}

}  // namespace mesh::routing
