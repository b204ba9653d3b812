#include "proxy/endpoint_view.h"

#include <algorithm>
#include <set>
#include <utility>

#include "common/log.h"

namespace mesh::proxy {
namespace {

// Of two records of one endpoint from a store that came back older, whether the remembered one replaced the found one.
bool IsNewer(const std::optional<Endpoint>& remembered, const std::optional<Endpoint>& found) {
  if (!remembered || !found) return false;
  return std::pair(remembered->generation, remembered->revision) > std::pair(found->generation, found->revision);
}

}  // namespace

void EndpointView::Put(const std::string& key, const std::string& value) {
  Entry& entry = entries_[key];
  entry.carried_until.reset();
  if (entry.value == value && !value.empty()) return;
  entry.value = value;
  Result<Endpoint> read = ParseEndpoint(application_, key, value);
  if (read.ok()) {
    entry.endpoint = std::move(read).value();
    return;
  }
  entry.endpoint.reset();
  if (read.status().code() == Code::kUnimplemented) return;  // of another protocol, which is no fault
  log::Warning("endpoint record ignored", {{"store_key", key}, {"error", read.status().message()}});
}

void EndpointView::Apply(const registry::Listing& listing, double now) {
  std::map<std::string, Entry> before = std::exchange(entries_, {});
  for (const registry::etcd::KeyValue& found : listing.kvs) {
    const auto known = before.find(found.key);
    if (known != before.end())
      entries_[found.key] = known->second;  // so that what it says is not read and logged again
    Put(found.key, found.value);
    if (known == before.end()) continue;
    if (listing.store_replaced && IsNewer(known->second.endpoint, entries_[found.key].endpoint)) {
      entries_[found.key] = known->second;
      entries_[found.key].carried_until = now + kCarryGraceS;
    }
    before.erase(known);
  }
  for (auto& [key, entry] : before) {
    const bool carried = entry.carried_until && *entry.carried_until > now;
    if (!listing.store_replaced && !carried) continue;
    if (!carried) entry.carried_until = now + kCarryGraceS;
    entries_[key] = std::move(entry);
  }
}

void EndpointView::Apply(const std::vector<registry::etcd::WatchEvent>& events) {
  for (const registry::etcd::WatchEvent& event : events) {
    if (event.deleted) {
      entries_.erase(event.kv.key);
    } else {
      Put(event.kv.key, event.kv.value);
    }
  }
}

bool EndpointView::Refused(const std::string& id, const std::string& address) {
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    const std::optional<Endpoint>& endpoint = entry->second.endpoint;
    if (!entry->second.carried_until || !endpoint || endpoint->id != id || endpoint->address != address) continue;
    entries_.erase(entry);
    return true;
  }
  return false;
}

bool EndpointView::Expire(double now) {
  bool changed = false;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const bool over = entry->second.carried_until && *entry->second.carried_until <= now;
    entry = over ? entries_.erase(entry) : std::next(entry);
    changed = changed || over;
  }
  return changed;
}

std::optional<double> EndpointView::next_expiry() const {
  std::optional<double> first;
  for (const auto& [key, entry] : entries_) {
    if (entry.carried_until && (!first || *entry.carried_until < *first)) first = entry.carried_until;
  }
  return first;
}

std::vector<Endpoint> EndpointView::Current() const {
  std::map<std::string, std::int64_t> newest;  // by deployment, as all are of one role
  for (const auto& [key, entry] : entries_) {
    if (!entry.endpoint || !entry.endpoint->ready) continue;
    std::int64_t& generation = newest[entry.endpoint->deployment];
    generation = std::max(generation, entry.endpoint->generation);
  }
  std::vector<Endpoint> current;
  for (const auto& [key, entry] : entries_) {
    if (!entry.endpoint) continue;
    const auto known = newest.find(entry.endpoint->deployment);
    if (known == newest.end() || entry.endpoint->generation >= known->second) current.push_back(*entry.endpoint);
  }
  return current;
}

}  // namespace mesh::proxy
