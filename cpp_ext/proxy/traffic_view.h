// How an application's requests are split, judged from what etcd said so far. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "proxy/endpoint.h"
#include "registry/etcd_wire.h"
#include "registry/watcher.h"
#include "routing/traffic.h"

namespace mesh::proxy {

// The key of the application's TrafficRecord.
std::string TrafficKey(const Application& application);

// A record that cannot be read changes nothing. Neither does a store that comes back without the record or with an
// older one: the master writes it again. A deleted record means that there are no splits.
class TrafficView {
 public:
  explicit TrafficView(Application application)
      : application_(std::move(application)), key_(TrafficKey(application_)) {}

  // True when current() is another one now.
  bool Apply(const registry::Listing& listing);
  bool Apply(const std::vector<registry::etcd::WatchEvent>& events);

  [[nodiscard]] const routing::TrafficRecord& current() const { return current_; }

 private:
  bool Take(const std::string& value, bool store_replaced);
  bool Clear();

  const Application application_;
  const std::string key_;
  routing::TrafficRecord current_;
  std::optional<std::string> held_;  // the store's own value, as far as it was heard
  bool held_older_ = false;          // than current_, which stays until somebody writes
};

}  // namespace mesh::proxy
