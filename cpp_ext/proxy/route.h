// The peers for one target, in the order in which they are asked, and the choice among them.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "proxy/peer.h"
#include "proxy/request_head.h"
#include "routing/least_latency.h"
#include "routing/policy.h"
#include "routing/power_of_two.h"
#include "routing/rendezvous.h"

namespace mesh::proxy {

// The peers that a request was sent to already; few, so a list is enough.
using Tried = std::vector<Peer::Key>;

// Doubles from 0 up to, not including, 1.
class Chance {
 public:
  Chance() : random_(std::random_device{}()) {}
  double operator()() { return std::generate_canonical<double, 53>(random_); }

 private:
  std::mt19937_64 random_;
};

class Pool {
 public:
  Pool(std::vector<std::shared_ptr<Peer>> peers, routing::Choice choice);

  [[nodiscard]] const std::vector<std::shared_ptr<Peer>>& peers() const { return peers_; }
  // One that was not tried and has room, by the policy's choice, or by `key` when it is not empty; null when there is
  // none.
  [[nodiscard]] std::shared_ptr<Peer> Pick(const std::string& key, const Tried& tried, int limit, double now,
                                           Chance* chance) const;

 private:
  [[nodiscard]] std::optional<std::size_t> PickIndex(const std::string& key, const Tried& tried, int limit, double now,
                                                     Chance* chance) const;

  std::vector<std::shared_ptr<Peer>> peers_;
  routing::Choice choice_;
  routing::PowerOfTwo power_of_two_;
  routing::LeastLatency least_latency_;
  std::vector<routing::RendezvousMember> members_;
};

struct Route {
  std::vector<Pool> working;   // the near ones first, where labels are preferred
  std::vector<Pool> everyone;  // at most one: all that work, for sequences
  std::vector<Pool> ejected;   // at most one: asked when nobody else is left
  bool known = false;          // an endpoint offers the model
};

}  // namespace mesh::proxy
