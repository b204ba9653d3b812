#include "proxy/router.h"

#include <algorithm>
#include <set>
#include <utility>

#include "common/log.h"

namespace mesh::proxy {
namespace {

constexpr std::size_t kMaxRoutes = 4096;  // names of models come from clients: what is remembered of them is bounded
constexpr double kSlowFactor = 4.0;       // a deadline counts against a peer when it left so many usual latencies

// An endpoint that came back at another address is another peer.
std::string PeerName(const Endpoint& endpoint) {
  return endpoint.id + ' ' + endpoint.address + (endpoint.tls ? " tls" : "");
}

}  // namespace

Router::Router(routing::Policy policy, Connect connect, std::function<void(const Endpoint&)> refused,
               std::function<void()> changed)
    : policy_(std::move(policy)),
      connect_(std::move(connect)),
      refused_(std::move(refused)),
      changed_(std::move(changed)),
      detector_(policy_.outliers) {}

Router::~Router() = default;

void Router::SetEndpoints(const std::vector<Endpoint>& endpoints, double now) {
  std::map<std::string, std::shared_ptr<Peer>> before = std::exchange(peers_, {});
  std::vector<Peer::Key> active;
  for (const Endpoint& endpoint : endpoints) {
    const std::string name = PeerName(endpoint);
    std::shared_ptr<Peer>& peer = peers_[name];
    if (peer != nullptr) continue;  // the same twice
    if (const auto known = before.find(name); known != before.end()) {
      peer = std::move(known->second);
      before.erase(known);
    } else {
      peer = TakeBack(name);
    }
    if (peer == nullptr) {
      peer = std::make_shared<Peer>();
      peer->key = ++last_key_;
      peer->answered_at = now;
      peer->channel = connect_(endpoint);
    }
    peer->endpoint = endpoint;
    if (endpoint.ready) active.push_back(peer->key);
  }
  for (auto& [name, peer] : before) {
    peer->gone = true;
    gone_.push_back(std::move(peer));
  }
  detector_.Retain(active);
  Changed();
}

// One that had left while something ran on it, and is in the view again.
std::shared_ptr<Peer> Router::TakeBack(const std::string& name) {
  const auto found = std::find_if(gone_.begin(), gone_.end(),
                                  [&](const std::shared_ptr<Peer>& peer) { return PeerName(peer->endpoint) == name; });
  if (found == gone_.end()) return nullptr;
  std::shared_ptr<Peer> peer = std::move(*found);
  gone_.erase(found);
  peer->gone = false;
  return peer;
}

void Router::SetTraffic(routing::Traffic traffic) {
  traffic_ = std::move(traffic);
  knows_traffic_ = true;
  Changed();
}

void Router::Changed() {
  routes_.clear();
  changed_();
}

std::size_t Router::LabelsMissed(const Endpoint& endpoint) const {
  const auto misses = [&](const std::pair<std::string, std::string>& wanted) {
    const auto found = endpoint.labels.find(wanted.first);
    return found == endpoint.labels.end() || found->second != wanted.second;
  };
  return static_cast<std::size_t>(std::count_if(policy_.prefer_labels.begin(), policy_.prefer_labels.end(), misses));
}

bool Router::CanServe(const Peer& peer, const RequestHead& head) {
  if (!peer.takes_work() || (!head.deployment.empty() && head.deployment != peer.endpoint.deployment)) return false;
  return peer.endpoint.Offers(head.model, head.version);
}

Route Router::MakeRoute(const RequestHead& head) const {
  Candidates own;
  Candidates spare;
  Route route;
  for (const auto& [name, peer] : peers_) {
    if (!CanServe(*peer, head)) continue;
    const routing::Place place = traffic_.PlaceOf(head.sides, peer->endpoint.deployment, peer->endpoint.revision);
    if (place == routing::Place::kNever) {
      route.barred = true;
      continue;
    }
    route.known = true;
    Candidates& among = place == routing::Place::kOnSide ? own : spare;
    (detector_.IsActive(peer->key) ? among.working[LabelsMissed(peer->endpoint)] : among.ejected).push_back(peer);
  }
  route.own = MakeTier(std::move(own), policy_.choice);
  route.spare = MakeTier(std::move(spare), policy_.choice);
  return route;
}

const Route& Router::RouteOf(const RequestHead& head) {
  const std::string target = head.target();
  const auto found = routes_.find(target);
  if (found != routes_.end()) return found->second;
  Route made = MakeRoute(head);
  static const Route kUnknown;
  if (!made.known && !made.barred) return kUnknown;  // not remembered: anybody may ask for anything
  if (routes_.size() >= kMaxRoutes) routes_.clear();
  return routes_.emplace(target, std::move(made)).first->second;
}

Found Router::Choose(const RequestHead& head, const Tried& tried, double now) {
  if (head.pinned()) {
    Found home = ChooseHome(head);
    if (home.lack != Lack::kUntried) return home;
  }
  const Route& route = RouteOf(head);
  if (!route.known && route.barred) return {nullptr, Lack::kSide};
  if (!route.known) return {nullptr, ready() == 0 ? Lack::kPeers : Lack::kModel};
  if (!head.sequence.empty()) return ChooseFirstHome(head, route, tried, now);
  const int limit = policy_.max_in_flight_per_endpoint;
  const auto untried = [&](const std::shared_ptr<Peer>& peer) { return !WasTried(tried, peer->key); };
  for (const Route::Pools* pools : route.InOrder(&Tier::working, tried)) {
    for (const Pool& pool : *pools) {
      if (std::shared_ptr<Peer> peer = pool.Pick(head.hash, tried, limit, now, &chance_)) {
        return {std::move(peer), Lack::kNone};
      }
    }
    // One that only has no room is waited for: what comes next would be worse.
    for (const Pool& pool : *pools) {
      if (std::any_of(pool.peers().begin(), pool.peers().end(), untried)) return {nullptr, Lack::kRoom};
    }
  }
  return {nullptr, Lack::kUntried};
}

std::shared_ptr<Peer> Router::Candidate(const RequestHead& head, double now) {
  for (const Route::Pools* pools : RouteOf(head).InOrder(&Tier::everyone, {})) {
    for (const Pool& pool : *pools) {
      if (std::shared_ptr<Peer> peer = pool.Pick({}, {}, 0, now, &chance_)) return peer;
    }
  }
  return nullptr;
}

// Where the sequence is known to be. Lack::kUntried: that is not known.
Found Router::ChooseHome(const RequestHead& head) {
  const std::string name = sequences_.Find(head.sequence_name());
  if (name.empty()) return {nullptr, Lack::kUntried};
  const auto found = peers_.find(name);
  if (found == peers_.end()) return {nullptr, Lack::kHome};
  if (found->second->IsFull(policy_.max_in_flight_per_endpoint)) return {nullptr, Lack::kRoom};
  return {found->second, Lack::kNone};
}

// Where it begins, or where another proxy let it begin: by its id alone, so that all proxies agree. Neither room nor
// labels decide.
Found Router::ChooseFirstHome(const RequestHead& head, const Route& route, const Tried& tried, double now) {
  for (const Route::Pools* pools : route.InOrder(&Tier::everyone, tried)) {
    for (const Pool& pool : *pools) {
      std::shared_ptr<Peer> peer = pool.Pick(head.sequence_name(), tried, 0, now, &chance_);
      if (peer == nullptr) continue;
      if (peer->IsFull(policy_.max_in_flight_per_endpoint)) return {nullptr, Lack::kRoom};
      return {std::move(peer), Lack::kNone};
    }
  }
  return {nullptr, Lack::kUntried};
}

void Router::Sent(const RequestHead& head, const Peer& peer) {
  if (!head.sequence.empty()) sequences_.Put(head.sequence_name(), PeerName(peer.endpoint));
}

std::shared_ptr<Peer> Router::ChooseShadow(const std::string& deployment, const RequestHead& head, double now) {
  RequestHead target;
  target.deployment = deployment;
  target.model = head.model;
  target.version = head.version;
  std::shared_ptr<Peer> best;
  int ties = 0;
  const auto burden = [&](const Peer& peer) { return std::pair(peer.copies_rest_until > now, peer.copies); };
  for (const Pool& pool : RouteOf(target).own.everyone) {
    for (const std::shared_ptr<Peer>& peer : pool.peers()) {
      if (best == nullptr || burden(*peer) < burden(*best)) {
        best = peer;
        ties = 1;
      } else if (burden(*peer) == burden(*best) && chance_() * ++ties < 1.0) {  // each with the same chance
        best = peer;
      }
    }
  }
  return best;
}

void Router::Ended(const RequestHead& head) {
  if (!head.sequence.empty() && head.sequence_end) sequences_.Remove(head.sequence_name());
}

void Router::Worked(Peer& peer, double now) {
  peer.answered_at = now;
  detector_.Succeeded(peer.key, now);
}

void Router::Answered(Peer& peer, double took_s, double now) {
  peer.latency.Observe(took_s, now);
  Worked(peer, now);
}

void Router::Failed(Peer& peer, routing::Fault fault, const Status& status, double ran_s, double now) {
  using routing::Fault;
  if (fault == Fault::kNone || fault == Fault::kBusy) peer.answered_at = now;
  if (fault == Fault::kNone) detector_.Succeeded(peer.key, now);
  bool ejected = false;
  if (fault == Fault::kLost || fault == Fault::kLeaving) {
    ejected = detector_.Lost(peer.key, now);
    if (fault == Fault::kLost && routing::WasNeverSent(status.message(), false)) refused_(peer.endpoint);
  } else if (fault == Fault::kFailed || (fault == Fault::kSlow && ran_s >= kSlowFactor * TypicalLatency(now))) {
    ejected = detector_.Failed(peer.key, now);
  }
  if (ejected) NoteEjected(peer, status);
}

void Router::NoteEjected(const Peer& peer, const Status& status) {
  ++counts_.ejections;
  log::Warning("endpoint ejected", {{"endpoint", peer.endpoint.id},
                                    {"address", peer.endpoint.address},
                                    {"error", status.ToString()},
                                    {"ejected", static_cast<std::int64_t>(detector_.ejected())}});
  routes_.clear();  // who waits looks again as soon as the attempt has ended
}

double Router::TypicalLatency(double now) const {
  double least = 0.0;
  for (const auto& [name, peer] : peers_) {
    const double latency = peer->latency.latency_s(now);
    if (latency > 0.0 && (least == 0.0 || latency < least)) least = latency;
  }
  return least;
}

std::vector<std::shared_ptr<Peer>> Router::TakeDueProbes(double now) {
  const std::vector<Peer::Key> due = detector_.TakeDueProbes(now);
  std::vector<std::shared_ptr<Peer>> peers;
  for (const auto& [name, peer] : peers_) {
    if (std::find(due.begin(), due.end(), peer->key) != due.end()) peers.push_back(peer);
  }
  return peers;
}

void Router::Probed(Peer& peer, bool live, double now) {
  const bool out = !detector_.IsActive(peer.key);
  detector_.Probed(peer.key, live, now);
  if (!live || !out || !detector_.IsActive(peer.key)) return;
  ++counts_.restored;
  log::Info("endpoint is back", {{"endpoint", peer.endpoint.id}, {"address", peer.endpoint.address}});
  Changed();
}

void Router::Hangs(Peer& peer, double now) {
  const Status status(Code::kUnavailable, "it does not answer, not even whether it is live");
  log::Warning("endpoint hangs", {{"endpoint", peer.endpoint.id},
                                  {"address", peer.endpoint.address},
                                  {"in_flight", static_cast<std::int64_t>(peer.running.size())}});
  if (detector_.Lost(peer.key, now)) NoteEjected(peer, status);
  // A connection that hangs is not used again, not even by what is sent elsewhere now and finds nobody else.
  const std::shared_ptr<rpc::Channel> hung = std::exchange(peer.channel, connect_(peer.endpoint));
  const std::list<RunningCall*> running = peer.running;
  for (RunningCall* call : running) {
    // One that ends may end others with it.
    if (std::find(peer.running.begin(), peer.running.end(), call) != peer.running.end()) call->PeerHangs();
  }
  hung->Close();
  changed_();  // its places are free
}

std::vector<std::shared_ptr<Peer>> Router::Busy() const {
  std::vector<std::shared_ptr<Peer>> busy;
  for (const auto& [name, peer] : peers_) {
    if (!peer->running.empty()) busy.push_back(peer);
  }
  for (const auto& peer : gone_) {
    if (!peer->running.empty()) busy.push_back(peer);
  }
  return busy;
}

void Router::Sweep() {
  const auto idle = [](const std::shared_ptr<Peer>& peer) {
    return peer->running.empty() && peer->asked == 0 && peer->copies == 0;
  };
  const auto first = std::stable_partition(gone_.begin(), gone_.end(), [&](const auto& peer) { return !idle(peer); });
  for (auto peer = first; peer != gone_.end(); ++peer) (*peer)->channel->Close();
  gone_.erase(first, gone_.end());
}

void Router::Close() {
  routes_.clear();
  for (const auto& [name, peer] : std::exchange(peers_, {})) peer->channel->Close();
  for (const auto& peer : std::exchange(gone_, {})) peer->channel->Close();
}

bool Router::has_working() const {
  return std::any_of(peers_.begin(), peers_.end(), [this](const auto& entry) {
    return entry.second->takes_work() && detector_.IsActive(entry.second->key);
  });
}

std::size_t Router::ready() const {
  return static_cast<std::size_t>(
      std::count_if(peers_.begin(), peers_.end(), [](const auto& entry) { return entry.second->takes_work(); }));
}

std::size_t Router::draining() const { return peers_.size() - ready(); }

std::size_t Router::running() const {
  std::size_t sum = 0;
  for (const auto& peer : Busy()) sum += peer->running.size();
  return sum;
}

std::vector<std::string> Router::Offered(std::string_view deployment) const {
  std::set<std::string> names;
  for (const auto& [name, peer] : peers_) {
    if (!peer->takes_work() || (!deployment.empty() && deployment != peer->endpoint.deployment)) continue;
    for (const EndpointModel& model : peer->endpoint.models) names.insert(model.name);
  }
  return {names.begin(), names.end()};
}

std::vector<std::string> Router::Offering(const RequestHead& head) const {
  std::set<std::string> names;
  for (const auto& [name, peer] : peers_) {
    if (!CanServe(*peer, head)) continue;
    names.insert(peer->endpoint.deployment + " in revision " + std::to_string(peer->endpoint.revision));
  }
  return {names.begin(), names.end()};
}

}  // namespace mesh::proxy
