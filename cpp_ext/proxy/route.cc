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

}  // namespace

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
    return !peer.IsFull(limit) && std::find(tried.begin(), tried.end(), peer.key) == tried.end();
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

}  // namespace mesh::proxy
