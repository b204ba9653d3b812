#include "proxy/endpoint_view.h"

#include <algorithm>
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

EndpointView::Entry EndpointView::Read(const std::string& key, const std::string& value, const Entries& known) const {
  const auto before = known.find(key);
  if (before != known.end() && before->second.value == value) return before->second;  // neither read nor logged again
  Entry entry{value, std::nullopt};
  Result<Endpoint> read = ParseEndpoint(application_, key, value);
  if (read.ok()) {
    entry.endpoint = std::move(read).value();
  } else if (read.status().code() != Code::kUnimplemented) {  // another protocol is no fault
    log::Warning("endpoint record ignored", {{"store_key", key}, {"error", read.status().message()}});
  }
  return entry;
}

void EndpointView::Carry(const std::string& key, const Entry& entry, double now) {
  const auto held = stored_.find(key);
  // A further replacement does not begin the grace anew.
  carried_.try_emplace(key, Carried{entry, held == stored_.end() ? "" : held->second.value, now + kCarryGraceS});
}

void EndpointView::Resume(double now) {
  if (!paused_at_) return;
  const double stood_s = now - *std::exchange(paused_at_, std::nullopt);
  for (auto& [key, carried] : carried_) carried.until += stood_s;
}

void EndpointView::Pause(double now) {
  if (!paused_at_) paused_at_ = now;
}

void EndpointView::Apply(const registry::Listing& listing, double now) {
  Resume(now);
  const Entries before = std::exchange(stored_, {});
  for (const registry::etcd::KeyValue& found : listing.kvs) stored_[found.key] = Read(found.key, found.value, before);
  for (auto entry = carried_.begin(); entry != carried_.end();) {
    const auto held = stored_.find(entry->first);
    const bool written = held != stored_.end() && held->second.value != entry->second.held;
    const bool older =
        listing.store_replaced && written && IsNewer(entry->second.entry.endpoint, held->second.endpoint);
    if (older) entry->second.held = held->second.value;
    entry = written && !older ? carried_.erase(entry) : std::next(entry);
  }
  if (!listing.store_replaced) return;
  for (const auto& [key, entry] : before) {
    const auto found = stored_.find(key);
    if (found == stored_.end() || IsNewer(entry.endpoint, found->second.endpoint)) Carry(key, entry, now);
  }
}

void EndpointView::Apply(const std::vector<registry::etcd::WatchEvent>& events, double now) {
  Resume(now);
  for (const registry::etcd::WatchEvent& event : events) {
    const std::string& key = event.kv.key;
    if (event.deleted) {
      if (stored_.erase(key) > 0) carried_.erase(key);
    } else {
      stored_[key] = Read(key, event.kv.value, stored_);
      carried_.erase(key);
    }
  }
}

bool EndpointView::Refused(const std::string& id, const std::string& address) {
  const auto found = std::find_if(carried_.begin(), carried_.end(), [&](const auto& entry) {
    const std::optional<Endpoint>& endpoint = entry.second.entry.endpoint;
    return endpoint && endpoint->id == id && endpoint->address == address;
  });
  if (found == carried_.end()) return false;
  carried_.erase(found);
  return true;
}

bool EndpointView::Expire(double now) {
  if (paused_at_) return false;
  const std::size_t before = carried_.size();
  for (auto entry = carried_.begin(); entry != carried_.end();) {
    entry = entry->second.until <= now ? carried_.erase(entry) : std::next(entry);
  }
  return carried_.size() != before;
}

std::optional<double> EndpointView::next_expiry() const {
  std::optional<double> first;
  if (paused_at_) return first;
  for (const auto& [key, carried] : carried_) first = std::min(first.value_or(carried.until), carried.until);
  return first;
}

std::vector<Endpoint> EndpointView::Current() const {
  std::map<std::string, const Endpoint*> shown;
  for (const auto& [key, entry] : stored_) {
    if (entry.endpoint) shown[key] = &*entry.endpoint;
  }
  for (const auto& [key, carried] : carried_) {
    if (carried.entry.endpoint) shown[key] = &*carried.entry.endpoint;
  }
  const auto group = [](const Endpoint& one) { return one.owner.Full() + '/' + one.deployment; };  // all of one role
  std::map<std::string, std::int64_t> newest;
  for (const auto& [key, endpoint] : shown) {
    if (!endpoint->ready) continue;
    std::int64_t& generation = newest[group(*endpoint)];
    generation = std::max(generation, endpoint->generation);
  }
  std::vector<Endpoint> current;
  for (const auto& [key, endpoint] : shown) {
    const auto known = newest.find(group(*endpoint));
    if (known == newest.end() || endpoint->generation >= known->second) current.push_back(*endpoint);
  }
  return current;
}

}  // namespace mesh::proxy
