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

// A store that comes back empty or older did not delete anything: what it does not hold is carried along for
// kCarryGraceS, until it registers again, or until nobody listens there.
class EndpointView {
 public:
  static constexpr double kCarryGraceS = 60.0;

  explicit EndpointView(Application application) : application_(std::move(application)) {}

  void Apply(const registry::Listing& listing, double now);
  void Apply(const std::vector<registry::etcd::WatchEvent>& events);
  // Nobody listens at the endpoint's address. True when that ended a carried one.
  bool Refused(const std::string& id, const std::string& address);
  // Ends what was carried for too long. True when something did.
  bool Expire(double now);
  // When Expire has something to do next; none while nothing is carried.
  [[nodiscard]] std::optional<double> next_expiry() const;

  // Ready and draining ones by their keys, without those of an older generation than a ready one of their deployment.
  [[nodiscard]] std::vector<Endpoint> Current() const;

 private:
  struct Entry {
    std::string value;
    std::optional<Endpoint> endpoint;  // none: not usable, which was logged once
    std::optional<double> carried_until;
  };

  void Put(const std::string& key, const std::string& value);

  const Application application_;
  std::map<std::string, Entry> entries_;
};

}  // namespace mesh::proxy
