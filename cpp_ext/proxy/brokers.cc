#include "proxy/brokers.h"

#include <algorithm>
#include <utility>

namespace mesh::proxy {
namespace {

bool Has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool Takes(const Endpoint& broker) { return broker.ready && !broker.drained; }

using Version = std::pair<std::int64_t, std::int64_t>;
Version VersionOf(const Endpoint& broker) { return {broker.generation, broker.revision}; }

}  // namespace

bool BrokerPeer::Serves(const std::string& journal) const { return Has(endpoint.journals, journal); }

void Brokers::SetEndpoints(const std::vector<Endpoint>& endpoints) {
  if (closed_) return;
  std::map<std::string, std::shared_ptr<BrokerPeer>> before = std::exchange(peers_, {});
  std::map<std::string, Version> newest;
  for (const Endpoint& endpoint : endpoints) {
    if (endpoint.role != kBrokerRole) continue;
    const std::string name = endpoint.id + ' ' + endpoint.address + (endpoint.tls ? " tls" : "");
    // Another object each time: whoever asks one goes on with what was known when it began.
    const auto known = before.find(name);
    const auto channel = known != before.end() ? known->second->channel : connect_(endpoint);
    peers_[name] = std::make_shared<BrokerPeer>(BrokerPeer{endpoint, channel});
    if (!Takes(endpoint)) continue;
    Version& version = newest[endpoint.deployment];
    version = std::max(version, VersionOf(endpoint));
  }
  pulled_.clear();
  for (const auto& [name, peer] : peers_) {
    const Endpoint& broker = peer->endpoint;
    if (!Takes(broker) || VersionOf(broker) != newest[broker.deployment]) continue;
    pulled_.insert(broker.pulled.begin(), broker.pulled.end());
  }
}

std::shared_ptr<BrokerPeer> Brokers::Taker(const std::string& deployment, const std::vector<std::string>& bound,
                                           const std::set<std::string>& left, Chance* chance) const {
  std::vector<std::shared_ptr<BrokerPeer>> fresh;
  std::vector<std::shared_ptr<BrokerPeer>> asked;
  for (const auto& [name, peer] : peers_) {
    const Endpoint& broker = peer->endpoint;
    if (!broker.ready || (!broker.before.empty() && !Has(broker.before, deployment))) continue;
    const bool serves = std::all_of(bound.begin(), bound.end(),
                                    [&peer = peer](const std::string& journal) { return peer->Serves(journal); });
    if (!serves || (bound.empty() && broker.drained)) continue;
    (left.count(broker.id) > 0 ? asked : fresh).push_back(peer);
  }
  const auto& among = fresh.empty() ? asked : fresh;
  if (among.empty()) return nullptr;
  return among[static_cast<std::size_t>((*chance)() * static_cast<double>(among.size()))];
}

std::shared_ptr<BrokerPeer> Brokers::Home(const std::string& journal) const {
  for (const auto& [name, peer] : peers_) {
    if (peer->Serves(journal)) return peer;
  }
  return nullptr;
}

void Brokers::Enter(std::shared_ptr<Call> call) {
  Call* const name = call.get();
  calls_[name] = std::move(call);
}

void Brokers::Leave(Call* call) { calls_.erase(call); }

void Brokers::Close() {
  closed_ = true;
  for (const auto& [name, peer] : std::exchange(peers_, {})) peer->channel->Close();
  pulled_.clear();
  std::exchange(calls_, {}).clear();
}

}  // namespace mesh::proxy
