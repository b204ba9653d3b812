// Pulls work from the brokers of a replica's application: gives credits, runs items, says what came of them. The twin
// of serving/broker/puller/puller.py.
//
// An outcome is kept until the broker has it on disk. An item belongs to its journal, not to a broker: what is said of
// it goes to whichever broker serves the journal then.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "broker/credits.h"
#include "broker/held.h"
#include "broker/link.h"
#include "broker/messages.h"
#include "broker/pulled_call.h"
#include "common/metrics.h"
#include "proxy/endpoint.h"
#include "rpc/event_loop.h"

namespace mesh::broker {

// On the registry of the replica; as serving/broker/puller/instruments.py.
struct PullInstruments {
  explicit PullInstruments(metrics::Registry& registry);

  metrics::Counter& results;
  metrics::Counter& failures;
  metrics::Counter& returned;
  metrics::Counter& stopped;
  metrics::Gauge& brokers;
  metrics::Gauge& held;
  metrics::Gauge& credit;
};

// Belongs to one loop, as all of its methods do.
class Puller final : public LinkOwner, public std::enable_shared_from_this<Puller> {
 public:
  Puller(Hello self, Serve serve, std::shared_ptr<rpc::EventLoop> loop, std::optional<rpc::TlsOptions> tls,
         metrics::Registry& registry);
  ~Puller() override;
  Puller(const Puller&) = delete;
  Puller& operator=(const Puller&) = delete;

  // The endpoints of brokers that are in discovery now.
  void Apply(const std::vector<proxy::Endpoint>& endpoints);
  // While it is not, nothing more is asked for; what runs goes on.
  void SetOpen(bool open);
  // Asks for nothing any more, for good. Work that is on its way goes back.
  void Drain();
  // Ends what runs, which goes back to its broker.
  void StopRunning();
  // Ends everything. Outcomes that are not stored are lost: their items run again.
  void Close();
  // Nothing runs and every outcome is stored.
  [[nodiscard]] bool idle() const { return held_.empty(); }
  // Told whenever that changes. Before anything else.
  void OnIdle(std::function<void(bool)> told) { on_idle_ = std::move(told); }

 private:
  // An item that runs, or waits for room.
  struct Running {
    Running(Puller& puller, std::shared_ptr<HeldItem> item)
        : held(std::move(item)),
          room([this, &puller] { puller.Begin(*this); }),
          deadline([this, &puller] { puller.DeadlinePassed(*this); }) {}

    std::shared_ptr<HeldItem> held;
    std::shared_ptr<PulledCall> call;
    bool begun = false;
    std::chrono::milliseconds pause{50};  // until it is tried again where the replica is full
    rpc::Timer room;
    rpc::Timer deadline;
  };
  using LinkKey = std::tuple<std::string, std::string, std::int64_t>;  // id, address, pid

  // LinkOwner
  rpc::Message HelloMessage() override;
  void Welcomed(Link& link, const Welcome& welcome) override;
  void Received(Link& link, Reply reply) override;
  std::vector<rpc::Message> ToSay(Link& link, bool progress) override;
  void Disconnected(Link& link) override;
  void Ended(Link& link) override;

  [[nodiscard]] bool Takes(const proxy::Endpoint& endpoint) const;
  void SetFixed(int fixed);
  void ForgetHomeless();
  [[nodiscard]] Link* Home(const HeldItem& held) const;
  void WakeHome(const HeldItem& held);
  void NoteNews(const std::shared_ptr<HeldItem>& held);
  void NoteAllNews();
  void Say(const Link& link, HeldItem& held, bool progress, std::vector<rpc::Message>* said);

  void Allot();
  void NoteCredit();
  [[nodiscard]] int Room() const;
  void BeFull(std::chrono::milliseconds pause);

  // puller_items.cc
  void Take(Work work, const Link& link);
  [[nodiscard]] std::shared_ptr<PulledCall> NewCall(const std::shared_ptr<HeldItem>& held, Work* work,
                                                    const Link& link);
  // Repeated while there is no room.
  void Begin(Running& running);
  void WaitForRoom(Running& running, const Status& refused);
  void DeadlinePassed(Running& running);
  void PartMade(const std::shared_ptr<HeldItem>& held, std::string body);
  void RunEnded(const std::shared_ptr<HeldItem>& held, const Outcome& outcome);
  // When the stack of now is left, which may be that of a timer of the run.
  void EndLater(const Running& running, Status status);
  void Finish(const std::shared_ptr<HeldItem>& held, const Outcome& outcome);
  void StopItem(const ItemKey& key, const std::string& reason);
  void Remove(const HeldItem& held);
  [[nodiscard]] double Now() const;

  const Hello self_;
  const Serve serve_;
  const std::shared_ptr<rpc::EventLoop> loop_;
  const std::optional<rpc::TlsOptions> tls_;
  PullInstruments instruments_;
  HeldItems held_;
  std::map<ItemKey, std::unique_ptr<Running>> running_;
  std::map<LinkKey, std::shared_ptr<Link>> links_;
  std::vector<proxy::Endpoint> listed_;
  std::vector<std::shared_ptr<HeldItem>> news_;  // of which their brokers may not have heard all
  std::unique_ptr<Credits> credits_;
  int fixed_ = 0;
  bool open_ = false;
  bool draining_ = false;
  bool closed_ = false;
  double full_until_ = 0.0;
  rpc::Timer full_timer_;
  std::function<void(bool)> on_idle_ = [](bool) {};
};

}  // namespace mesh::broker
