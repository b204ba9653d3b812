// The endpoints of the application and the choice among them. Everything on the proxy's loop; times are seconds of a
// steady clock.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/status.h"
#include "proxy/peer.h"
#include "proxy/request_head.h"
#include "proxy/route.h"
#include "proxy/sequences.h"
#include "routing/outlier_detector.h"
#include "routing/policy.h"
#include "routing/verdict.h"
#include "rpc/client.h"

namespace mesh::proxy {

struct RouterCounts {
  std::uint64_t ejections = 0;
  std::uint64_t restored = 0;
};

// Why there is no peer for a request.
enum class Lack : std::uint8_t {
  kNone,     // there is one
  kRoom,     // all are at their limit
  kUntried,  // all were asked already
  kModel,    // endpoints work, and none offers the model
  kPeers,    // no endpoint takes new work
  kHome,     // the endpoint that has the sequence's state is gone
  kSide,     // endpoints offer the model, and the request's sides of traffic splits have none of them
};

struct Found {
  std::shared_ptr<Peer> peer;
  Lack lack = Lack::kNone;
};

// A slot of a peer: the request counts there until this goes away.
class Slot {
 public:
  Slot(std::shared_ptr<Peer> peer, RunningCall* call, double now)
      : peer_(std::move(peer)), place_(peer_->Add(call, now)) {}
  ~Slot() { peer_->running.erase(place_); }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  [[nodiscard]] Peer& peer() const { return *peer_; }

 private:
  const std::shared_ptr<Peer> peer_;
  const std::list<RunningCall*>::iterator place_;
};

class Router {
 public:
  using Connect = std::function<std::shared_ptr<rpc::Channel>(const Endpoint&)>;

  // `connect` makes the channel of a new endpoint. `refused` is told when nobody listens at an endpoint's address, and
  // `changed` when a request that waits may find a peer.
  Router(routing::Policy policy, Connect connect, std::function<void(const Endpoint&)> refused,
         std::function<void()> changed);
  ~Router();
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;

  void SetEndpoints(const std::vector<Endpoint>& endpoints, double now);
  // Requests keep the names of their sides; those of splits that are gone mean nothing any more.
  void SetTraffic(routing::Traffic traffic);
  [[nodiscard]] const routing::Traffic& traffic() const { return traffic_; }
  // False until it was told for the first time: sides cannot be chosen yet.
  [[nodiscard]] bool knows_traffic() const { return knows_traffic_; }
  [[nodiscard]] Found Choose(const RequestHead& head, const Tried& tried, double now);
  // The request goes to the peer: where its sequence is, is known from now on.
  void Sent(const RequestHead& head, const Peer& peer);
  // For a copy of the request: of those of that deployment that work and offer the model, one with the fewest copies,
  // and preferably one that the last copy reached. Null when there is none.
  [[nodiscard]] std::shared_ptr<Peer> ChooseShadow(const std::string& deployment, const RequestHead& head, double now);
  // The request is over, and with it perhaps its sequence.
  void Ended(const RequestHead& head);

  // What an attempt showed of the peer.
  void Answered(Peer& peer, double took_s, double now);
  void Worked(Peer& peer, double now);  // as Answered, where the time says nothing
  void Failed(Peer& peer, routing::Fault fault, const Status& status, double ran_s, double now);

  // Health, see health.h.
  [[nodiscard]] std::vector<std::shared_ptr<Peer>> TakeDueProbes(double now);
  void Probed(Peer& peer, bool live, double now);
  void Hangs(Peer& peer, double now);
  [[nodiscard]] std::vector<std::shared_ptr<Peer>> Busy() const;  // all on which something runs
  // Closes the channels of peers that left the view and have nothing to do. Not from a callback of a channel.
  void Sweep();
  // Closes all channels, which ends what runs.
  void Close();

  [[nodiscard]] const routing::Policy& policy() const { return policy_; }
  [[nodiscard]] bool IsActive(const Peer& peer) const { return detector_.IsActive(peer.key); }
  [[nodiscard]] bool has_working() const;
  [[nodiscard]] std::size_t ready() const;     // endpoints that take new work
  [[nodiscard]] std::size_t draining() const;  // that do not
  [[nodiscard]] std::size_t ejected() const { return detector_.ejected(); }
  [[nodiscard]] std::size_t running() const;
  [[nodiscard]] const RouterCounts& counts() const { return counts_; }
  // One of those that may answer the request, whatever room they have; null when there is none.
  [[nodiscard]] std::shared_ptr<Peer> Candidate(const RequestHead& head, double now);
  // Names of the models that are offered, sorted.
  [[nodiscard]] std::vector<std::string> Offered(std::string_view deployment) const;
  // What offers that which the request asks for, wherever it may be sent: "DEPLOYMENT in revision N", sorted.
  [[nodiscard]] std::vector<std::string> Offering(const RequestHead& head) const;

 private:
  const Route& RouteOf(const RequestHead& head);
  [[nodiscard]] Route MakeRoute(const RequestHead& head) const;
  [[nodiscard]] static bool CanServe(const Peer& peer, const RequestHead& head);
  [[nodiscard]] Found ChooseHome(const RequestHead& head);
  [[nodiscard]] Found ChooseFirstHome(const RequestHead& head, const Route& route, const Tried& tried, double now);
  [[nodiscard]] std::shared_ptr<Peer> TakeBack(const std::string& name);
  [[nodiscard]] std::size_t LabelsMissed(const Endpoint& endpoint) const;
  [[nodiscard]] double TypicalLatency(double now) const;
  void Changed();
  void NoteEjected(const Peer& peer, const Status& status);

  const routing::Policy policy_;
  const Connect connect_;
  const std::function<void(const Endpoint&)> refused_;
  const std::function<void()> changed_;
  routing::OutlierDetector detector_;
  Sequences sequences_;
  Chance chance_;
  RouterCounts counts_;
  Peer::Key last_key_ = 0;
  std::map<std::string, std::shared_ptr<Peer>> peers_;  // by id and address
  std::vector<std::shared_ptr<Peer>> gone_;
  routing::Traffic traffic_;
  bool knows_traffic_ = false;
  std::unordered_map<std::string, Route> routes_;  // by deployment, model, version and sides
};

}  // namespace mesh::proxy
