// The endpoints of an application, judged from what etcd said so far. Pure: times are arguments. The twin of
// serving/discovery/resolver.py with its cache.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "proxy/endpoint.h"
#include "registry/etcd_wire.h"
#include "registry/watcher.h"

namespace mesh::proxy {

// A store that comes back empty or older did not delete anything: what it does not hold, or holds in an older version,
// is carried along for kCarryGraceS of the time in which etcd answers, until it registers again, or until nobody
// listens there. Then what the store holds shows again.
class EndpointView {
 public:
  static constexpr double kCarryGraceS = 60.0;

  explicit EndpointView(Application application) : application_(std::move(application)) {}

  void Apply(const registry::Listing& listing, double now);
  void Apply(const std::vector<registry::etcd::WatchEvent>& events, double now);
  // etcd does not answer: the grace stands still until the next Apply.
  void Pause(double now);
  // Nobody listens at the endpoint's address. True when that ended a carried one.
  bool Refused(const std::string& id, const std::string& address);
  // Ends what was carried for too long. True when something did.
  bool Expire(double now);
  // When Expire has something to do next; none while nothing is carried, or while paused.
  [[nodiscard]] std::optional<double> next_expiry() const;

  // Ready and draining ones by their keys, without those of an older generation than a ready one of their deployment.
  [[nodiscard]] std::vector<Endpoint> Current() const;

 private:
  struct Entry {
    std::string value;
    std::optional<Endpoint> endpoint;  // none: not usable, which was logged once
  };
  struct Carried {
    Entry entry;
    std::string held;  // the store's own value at that time; another one ends the carrying
    double until = 0.0;
  };
  using Entries = std::map<std::string, Entry>;

  [[nodiscard]] Entry Read(const std::string& key, const std::string& value, const Entries& known) const;
  void Carry(const std::string& key, const Entry& entry, double now);
  void Resume(double now);

  const Application application_;
  Entries stored_;                          // as etcd says
  std::map<std::string, Carried> carried_;  // lies over it
  std::optional<double> paused_at_;
};

}  // namespace mesh::proxy
