#include "broker/puller.h"

#include <algorithm>
#include <utility>

#include "common/log.h"
#include "proxy/health.h"

namespace mesh::broker {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int kMostHeld = 1024;                     // items, where the spec does not say
constexpr std::size_t kMaxHeldBytes = 256UL << 20;  // above it nothing more is asked for
constexpr double kHomeless_s = 3600.0;              // an outcome whose journal nobody serves is kept for so long
constexpr char kProtocol[] = "broker-grpc";
constexpr char kItemsHelp[] = "Items that brokers gave this replica, by what became of them here";

metrics::Counter& Items(metrics::Registry& registry, const char* outcome) {
  return registry.GetCounter("mesh_pull_items_total", kItemsHelp, {{"outcome", outcome}});
}

}  // namespace

PullInstruments::PullInstruments(metrics::Registry& registry)
    : results(Items(registry, "result")),
      failures(Items(registry, "failure")),
      returned(Items(registry, "returned")),
      stopped(Items(registry, "stopped")),
      brokers(registry.GetGauge("mesh_pull_brokers", "Brokers from which this replica pulls now")),
      held(registry.GetGauge("mesh_pull_held", "Items that run, or whose outcomes are not stored yet")),
      credit(registry.GetGauge("mesh_pull_credit", "Credits that brokers have and have not used")) {}

Puller::Puller(Hello self, Serve serve, std::shared_ptr<rpc::EventLoop> loop, std::optional<rpc::TlsOptions> tls,
               metrics::Registry& registry)
    : self_(std::move(self)),
      serve_(std::move(serve)),
      loop_(std::move(loop)),
      tls_(std::move(tls)),
      instruments_(registry),
      credits_(std::make_unique<Credits>(1, kMostHeld)),
      full_timer_([this] { Allot(); }) {}

Puller::~Puller() = default;

double Puller::Now() const { return proxy::SecondsOf(steady_clock::now()); }

// ---------------------------------------------------------------- its life

void Puller::SetOpen(bool open) {
  open_ = open && !draining_;
  Allot();
}

void Puller::Drain() {
  draining_ = true;
  SetOpen(false);
}

void Puller::Close() {
  if (std::exchange(closed_, true)) return;
  StopRunning();
  if (!held_.empty()) {
    log::Warning("outcomes are not stored", {{"items", held_.count()}, {"first", held_.All().front()->key.item}});
  }
  for (const auto& [key, link] : std::exchange(links_, {})) link->Close();
  loop_->Disarm(&full_timer_);
}

void Puller::Apply(const std::vector<proxy::Endpoint>& endpoints) {
  if (closed_) return;
  listed_ = endpoints;
  std::map<LinkKey, const proxy::Endpoint*> found;
  int fixed = 0;
  for (const proxy::Endpoint& endpoint : listed_) {
    if (!Takes(endpoint)) continue;
    found[{endpoint.id, endpoint.address, endpoint.pid}] = &endpoint;
    fixed = std::max(fixed, endpoint.per_replica);
  }
  for (auto link = links_.begin(); link != links_.end();) {
    const bool listed = found.count(link->first) > 0;
    if (!listed) link->second->Leave();
    link = !listed && link->second->has_ended() ? links_.erase(link) : std::next(link);
  }
  for (const auto& [key, endpoint] : found) {
    std::shared_ptr<Link>& link = links_[key];
    if (link == nullptr || link->has_ended()) {
      link = std::make_shared<Link>(*endpoint, *this, loop_, tls_);
      link->Start();
    }
    link->Listed(*endpoint);
  }
  SetFixed(fixed);
  ForgetHomeless();
  Allot();
}

bool Puller::Takes(const proxy::Endpoint& endpoint) const {
  const std::vector<std::string>& before = endpoint.before;
  return endpoint.protocol == kProtocol && endpoint.ready &&
         (before.empty() || std::find(before.begin(), before.end(), self_.deployment) != before.end());
}

// What the spec says; 0: as it measures.
void Puller::SetFixed(int fixed) {
  if (fixed == fixed_) return;
  fixed_ = fixed;
  credits_ = std::make_unique<Credits>(1, kMostHeld, fixed);
}

void Puller::ForgetHomeless() {
  for (const std::shared_ptr<HeldItem>& held : held_.All()) {
    if (held->runs() || Now() - held->ended_at < kHomeless_s || Home(*held) != nullptr) continue;
    log::Warning("nobody serves the item's journal; its outcome is dropped", {{"item", held->key.item}});
    Remove(*held);
  }
}

// Who serves the item's journal: a broker in discovery rather than one that has left it.
Link* Puller::Home(const HeldItem& held) const {
  const std::string_view journal = JournalOf(held.key.item);
  Link* home = nullptr;
  for (const auto& [key, link] : links_) {
    if (!link->connected() || !link->Serves(journal)) continue;
    if (!link->gone()) return link.get();
    home = link.get();
  }
  return home;
}

// ---------------------------------------------------------------- credits

// Shares what the replica has room for among its brokers, at least one for each: any may have all the work.
void Puller::Allot() {
  const auto taking = [](const auto& entry) { return entry.second->connected() && !entry.second->gone(); };
  const auto count = static_cast<int>(std::count_if(links_.begin(), links_.end(), taking));
  const int share = count > 0 ? (Room() + count - 1) / count : 0;
  int brokers = 0;
  for (const auto& entry : links_) {
    Link& link = *entry.second;
    link.grant = taking(entry) ? share : 0;
    if (link.grant != link.outstanding) link.Wake();
    brokers += link.connected() ? 1 : 0;
  }
  instruments_.brokers.Set(brokers);
  instruments_.held.Set(static_cast<double>(held_.count()));
  NoteCredit();
}

void Puller::NoteCredit() {
  int credit = 0;
  for (const auto& entry : links_) credit += std::max(entry.second->outstanding, 0);
  instruments_.credit.Set(credit);
}

int Puller::Room() const {
  if (!open_ || held_.bytes() > kMaxHeldBytes || Now() < full_until_) return 0;
  return std::max(0, credits_->wanted() - held_.running());
}

// The replica is full: nothing more for so long.
void Puller::BeFull(milliseconds pause) {
  full_until_ = Now() + std::chrono::duration<double>(pause).count();
  loop_->Arm(&full_timer_, steady_clock::now() + pause + milliseconds(1));
  Allot();
}

// ---------------------------------------------------------------- of the links

rpc::Message Puller::HelloMessage() {
  // All of them: what a broker should know to run here and does not hear of goes back to its queue.
  std::vector<ItemKey> mine;
  for (const std::shared_ptr<HeldItem>& held : held_.All()) {
    if (!held->unwanted) mine.push_back(held->key);
  }
  return EncodeHello(self_, mine);
}

void Puller::Welcomed(Link& link, const Welcome& welcome) {
  for (const ItemKey& lost : welcome.lost) {
    // Of others' journals another broker says what is to become of it.
    if (link.Serves(JournalOf(lost.item))) StopItem(lost, "its lease has ended");
  }
  Allot();
}

void Puller::Received(Link& link, Reply reply) {
  if (auto* const work = std::get_if<Work>(&reply)) {
    --link.outstanding;
    Take(std::move(*work), link);
  } else if (const auto* const stop = std::get_if<Stop>(&reply)) {
    StopItem(stop->key, stop->reason);
  } else if (const auto* const stored = std::get_if<Stored>(&reply)) {
    const std::shared_ptr<HeldItem> held = held_.Find(stored->key);
    if (held != nullptr && !held->runs()) Remove(*held);
  }
  Allot();
}

std::vector<rpc::Message> Puller::ToSay(Link& link, bool progress) {
  std::vector<rpc::Message> said;
  if (progress) {
    for (const std::shared_ptr<HeldItem>& held : held_.All()) {
      if (!held->unwanted && Home(*held) == &link) Say(link, *held, true, &said);
    }
  }
  for (const std::shared_ptr<HeldItem>& held : std::exchange(news_, {})) {
    held->has_turn = false;
    if (held->unwanted || !held->has_news() || held_.Find(held->key) != held) continue;
    if (Home(*held) == &link) {
      Say(link, *held, false, &said);
    } else {
      NoteNews(held);
    }
  }
  if (link.grant != link.outstanding) {
    said.push_back(EncodeCredits(link.grant - link.outstanding));
    link.outstanding = link.grant;
    NoteCredit();
  }
  if (progress && said.empty()) said.push_back(EncodeCredits(0));  // it lives
  return said;
}

void Puller::Say(const Link& link, HeldItem& held, bool progress, std::vector<rpc::Message>* said) {
  const std::vector<ResultPart> parts = held.TakeParts();
  if (!parts.empty() || progress) said->push_back(EncodeProgress(held.key, parts));
  if (held.runs() || (held.said_at && Now() - *held.said_at <= link.lease_s())) return;
  held.said_at = Now();
  said->push_back(*held.outcome);
}

void Puller::Disconnected(Link& link) {
  for (const std::shared_ptr<HeldItem>& held : held_.All()) {
    if (link.Serves(JournalOf(held->key.item))) held->said_at.reset();
  }
  NoteAllNews();  // its journals may have another home already
  for (const auto& [key, other] : links_) other->Wake();
  Allot();
}

// It is not opened again; where the broker has come back to discovery at that moment, by another link.
void Puller::Ended(Link& link) {
  loop_->Post([ended = link.shared_from_this()] {});  // freed when its own stack is left
  log::Debug("a broker is left", {{"broker", link.endpoint().id}});
  loop_->Post([weak = weak_from_this()] {
    if (const auto puller = weak.lock(); puller != nullptr) {
      puller->Apply(std::vector<proxy::Endpoint>(puller->listed_));
    }
  });
}

void Puller::NoteNews(const std::shared_ptr<HeldItem>& held) {
  if (std::exchange(held->has_turn, true)) return;
  news_.push_back(held);
}

void Puller::NoteAllNews() {
  for (const std::shared_ptr<HeldItem>& held : held_.All()) {
    if (held->has_news()) NoteNews(held);
  }
}

void Puller::WakeHome(const HeldItem& held) {
  if (Link* const home = Home(held); home != nullptr) home->Wake();
}

}  // namespace mesh::broker
