// The peers for one target, in the order in which they are asked, and the choice among them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
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

// A peer that a request was sent to already.
struct Try {
  Try(Peer::Key peer, bool it_works = false) : key(peer), works(it_works) {}  // NOLINT(google-explicit-constructor)

  Peer::Key key;
  bool works;  // it answered, if only that it has no room
};
using Tried = std::vector<Try>;  // few, so a list is enough

[[nodiscard]] bool WasTried(const Tried& tried, Peer::Key peer);

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

// Peers of one place with respect to a request's sides (routing/traffic.h).
struct Tier {
  std::vector<Pool> working;   // the near ones first, where labels are preferred
  std::vector<Pool> everyone;  // at most one: all that work, for sequences
  std::vector<Pool> ejected;   // at most one: asked when nobody else is left
};

struct Candidates {
  std::map<std::size_t, std::vector<std::shared_ptr<Peer>>> working;  // by the preferred labels that they miss
  std::vector<std::shared_ptr<Peer>> ejected;
};

Tier MakeTier(Candidates candidates, routing::Choice choice);

struct Route {
  using Pools = std::vector<Pool>;

  Tier own;             // on the request's sides: everybody, where no split is about it
  Tier spare;           // on others
  bool known = false;   // an endpoint that the request may be sent to offers the model
  bool barred = false;  // one offers it to which the request must not be sent

  // What is asked, in this order; the last one may be empty. Spare peers only while none of the request's own works:
  // one that was asked and had no room does.
  [[nodiscard]] std::array<const Pools*, 4> InOrder(Pools Tier::*working, const Tried& tried) const;
};

}  // namespace mesh::proxy
