#include "proxy/route.h"

#include <algorithm>
#include <utility>

namespace mesh::proxy {
namespace {

std::vector<std::uint32_t> WeightsOf(const std::vector<std::shared_ptr<Peer>>& peers) {
  std::vector<std::uint32_t> weights;
  weights.reserve(peers.size());
  for (const auto& peer : peers) weights.push_back(peer->endpoint.weight);
  return weights;
}

std::vector<routing::RendezvousMember> MembersOf(const std::vector<std::shared_ptr<Peer>>& peers) {
  std::vector<routing::RendezvousMember> members;
  members.reserve(peers.size());
  for (const auto& peer : peers) members.emplace_back(peer->endpoint.id, peer->endpoint.weight);
  return members;
}

bool Has(const Pool& pool, Peer::Key key) {
  return std::any_of(pool.peers().begin(), pool.peers().end(),
                     [&](const std::shared_ptr<Peer>& peer) { return peer->key == key; });
}

}  // namespace

bool WasTried(const Tried& tried, Peer::Key peer) {
  return std::any_of(tried.begin(), tried.end(), [&](const Try& one) { return one.key == peer; });
}

Pool::Pool(std::vector<std::shared_ptr<Peer>> peers, routing::Choice choice)
    : peers_(std::move(peers)),
      choice_(choice),
      power_of_two_(WeightsOf(peers_)),
      least_latency_(WeightsOf(peers_)),
      members_(MembersOf(peers_)) {}

std::optional<std::size_t> Pool::PickIndex(const std::string& key, const Tried& tried, int limit, double now,
                                           Chance* chance) const {
  const auto allowed = [&](std::size_t index) {
    const Peer& peer = *peers_[index];
    return !peer.IsFull(limit) && !WasTried(tried, peer.key);
  };
  const auto load = [&](std::size_t index) { return peers_[index]->LoadAt(now); };
  if (!key.empty()) return routing::RendezvousBest(key, members_, allowed);
  const bool all = tried.empty() && limit == 0;
  if (choice_ == routing::Choice::kLeastLatency) {
    return all ? least_latency_.Pick(*chance, load) : least_latency_.PickAmong(allowed, *chance, load);
  }
  return all ? power_of_two_.Pick(*chance, load) : power_of_two_.PickAmong(allowed, *chance, load);
}

std::shared_ptr<Peer> Pool::Pick(const std::string& key, const Tried& tried, int limit, double now,
                                 Chance* chance) const {
  const std::optional<std::size_t> index = PickIndex(key, tried, limit, now, chance);
  return index ? peers_[*index] : nullptr;
}

Tier MakeTier(Candidates candidates, routing::Choice choice) {
  Tier tier;
  std::vector<std::shared_ptr<Peer>> everyone;
  for (const auto& [missed, peers] : candidates.working) everyone.insert(everyone.end(), peers.begin(), peers.end());
  if (!everyone.empty()) tier.everyone.emplace_back(std::move(everyone), choice);
  std::vector<std::shared_ptr<Peer>> far;
  for (auto& [missed, peers] : candidates.working) {  // those that miss the fewest, then all the others
    if (tier.working.empty()) {
      tier.working.emplace_back(std::move(peers), choice);
    } else {
      far.insert(far.end(), peers.begin(), peers.end());
    }
  }
  if (!far.empty()) tier.working.emplace_back(std::move(far), choice);
  if (!candidates.ejected.empty()) tier.ejected.emplace_back(std::move(candidates.ejected), choice);
  return tier;
}

std::array<const Route::Pools*, 4> Route::InOrder(Pools Tier::*working, const Tried& tried) const {
  static const Pools kNone;
  const auto works = [this](const Try& one) {
    return one.works &&
           std::any_of(own.working.begin(), own.working.end(), [&](const Pool& pool) { return Has(pool, one.key); });
  };
  const bool spared = std::none_of(tried.begin(), tried.end(), works);
  return {&(own.*working), spared ? &(spare.*working) : &kNone, &own.ejected, spared ? &spare.ejected : &kNone};
}

}  // namespace mesh::proxy
