#include "proxy/traffic_view.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "common/log.h"

namespace mesh::proxy {
namespace {

// Whether a record of a store that was replaced is one from before the loss.
bool IsOlder(const routing::TrafficRecord& found, const routing::TrafficRecord& known) {
  if (found.generation != known.generation) return found.generation < known.generation;
  return found.uid == known.uid && found.version < known.version;
}

Result<routing::TrafficRecord> Read(const Application& application, const std::string& key, const std::string& value) {
  Result<routing::TrafficRecord> read = routing::ParseTrafficRecord(value, key);
  if (!read.ok()) return read;
  const routing::TrafficRecord& record = read.value();
  const bool said = !record.name_space.empty() || !record.name.empty();
  if (said && (record.name_space != application.name_space || record.name != application.name)) {
    return Status(Code::kDataLoss, key + ": it says that it belongs to " + record.name_space + '/' + record.name);
  }
  return read;
}

}  // namespace

std::string TrafficKey(const Application& application) {
  return "/mesh/v1/apps/" + application.name_space + '/' + application.name + "/traffic";
}

bool TrafficView::Apply(const registry::Listing& listing) {
  const auto found = std::find_if(listing.kvs.begin(), listing.kvs.end(),
                                  [this](const registry::etcd::KeyValue& kv) { return kv.key == key_; });
  if (found != listing.kvs.end()) return held_ != found->value && Take(found->value, listing.store_replaced);
  if (!held_) return false;  // as a replaced store said already
  held_.reset();
  return !listing.store_replaced && Clear();
}

bool TrafficView::Apply(const std::vector<registry::etcd::WatchEvent>& events) {
  bool changed = false;
  for (const registry::etcd::WatchEvent& event : events) {
    if (event.kv.key != key_) continue;  // of a longer name
    if (event.deleted) {
      held_.reset();
      changed = Clear() || changed;
    } else if (event.kv.value != held_ || held_older_) {
      changed = Take(event.kv.value, false) || changed;
    }
  }
  return changed;
}

bool TrafficView::Take(const std::string& value, bool store_replaced) {
  held_ = value;
  held_older_ = false;
  Result<routing::TrafficRecord> read = Read(application_, key_, value);
  if (!read.ok()) {
    log::Warning("traffic record ignored; the last one counts", {{"error", read.status().message()}});
    return false;
  }
  held_older_ = store_replaced && IsOlder(read.value(), current_);
  if (held_older_) return false;
  current_ = std::move(read).value();
  return true;
}

bool TrafficView::Clear() {
  held_older_ = false;
  current_ = {};
  return true;
}

}  // namespace mesh::proxy
