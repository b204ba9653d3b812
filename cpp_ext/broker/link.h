// One Pull stream to one broker, opened again for as long as the broker is in discovery. The twin of
// serving/broker/puller/link.py.
//
//   calling ──first message──▶ greeting ──welcome──▶ open ──lost──▶ pausing ──▶ calling
//      └───────────lost, no welcome───────┴──────────────────────────▲   └──it has left discovery──▶ ended
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "broker/messages.h"
#include "proxy/endpoint.h"
#include "registry/backoff.h"
#include "rpc/client.h"
#include "rpc/event_loop.h"

namespace mesh::broker {

class Link;

// What a link asks and tells, on its loop. It outlives the links.
class LinkOwner {
 public:
  virtual ~LinkOwner() = default;
  virtual rpc::Message HelloMessage() = 0;
  virtual void Welcomed(Link& link, const Welcome& welcome) = 0;
  virtual void Received(Link& link, Reply reply) = 0;
  // What the broker has not heard yet; with `progress`, of each item that it is held.
  virtual std::vector<rpc::Message> ToSay(Link& link, bool progress) = 0;
  virtual void Disconnected(Link& link) = 0;
  // It is over with this link: it left discovery and its connection is gone.
  virtual void Ended(Link& link) = 0;
};

// Belongs to one loop.
class Link final : public rpc::LoopTask, public std::enable_shared_from_this<Link> {
 public:
  // `tls` is used when the endpoint expects TLS.
  Link(proxy::Endpoint endpoint, LinkOwner& owner, std::shared_ptr<rpc::EventLoop> loop,
       const std::optional<rpc::TlsOptions>& tls);
  ~Link() override;
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  void Start();
  // There may be something to say: it is said at the end of this turn of the loop.
  void Wake();
  // The record of the endpoint, which is in discovery (again).
  void Listed(const proxy::Endpoint& endpoint);
  // The endpoint is gone from discovery: what is open goes on, nothing is opened again.
  void Leave();
  // Ends it; nothing is told after that. Repeatable.
  void Close();

  [[nodiscard]] const proxy::Endpoint& endpoint() const { return endpoint_; }
  [[nodiscard]] bool Serves(std::string_view journal) const;
  [[nodiscard]] bool connected() const { return phase_ == Phase::kOpen; }
  [[nodiscard]] bool gone() const { return gone_; }
  [[nodiscard]] bool has_ended() const { return phase_ == Phase::kEnded; }
  [[nodiscard]] double lease_s() const { return lease_s_; }
  [[nodiscard]] std::size_t max_result_bytes() const { return max_result_bytes_; }

  int outstanding = 0;  // credits that the broker has and has not used
  int grant = 0;        // what `outstanding` should be

 private:
  enum class Phase : std::uint8_t { kNew, kGreeting, kOpen, kPausing, kEnded };

  void RunInLoop() override;  // says what there is to say
  void Call();
  void OnMessage(const rpc::Slice& message);
  void Begin(const Welcome& welcome);
  // The connection is over, as the broker says or as it is judged here.
  void Lose(const std::string& why);
  void Note(const std::string& why);
  void Pause();
  void End();
  void OnTimer();
  void Speak(bool progress);
  void ArmTick();

  proxy::Endpoint endpoint_;
  LinkOwner& owner_;
  const std::shared_ptr<rpc::EventLoop> loop_;
  const std::shared_ptr<rpc::Channel> channel_;
  std::shared_ptr<rpc::ClientCall> call_;
  std::uint64_t conversation_ = 0;  // what earlier ones still tell is not heard
  Phase phase_ = Phase::kNew;
  bool gone_ = false;
  bool waking_ = false;
  bool tick_due_ = false;
  int failures_ = 0;
  double lease_s_;
  std::size_t max_result_bytes_ = 0;
  registry::Backoff backoff_;
  rpc::Timer timer_;  // for the welcome, the next sign of life, the next call
};

}  // namespace mesh::broker
