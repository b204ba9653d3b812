#include "proxy/health.h"

#include <algorithm>
#include <chrono>
#include <protozero/pbf_reader.hpp>
#include <utility>

#include "common/protobuf.h"

namespace mesh::proxy {
namespace {

constexpr std::chrono::milliseconds kTick{100};
constexpr char kServerLive[] = "/inference.GRPCInferenceService/ServerLive";

bool ReadLive(std::string_view answer) {
  try {
    protozero::pbf_reader reader(answer.data(), answer.size());
    bool live = false;
    while (reader.next()) {
      if (reader.tag() == 1) {
        live = ReadBool(&reader);
      } else {
        reader.skip();
      }
    }
    return live;
  } catch (const protozero::exception&) {
    return false;  // whatever answers there is no KServe server
  }
}

}  // namespace

double SecondsOf(rpc::EventLoop::TimePoint when) {
  return std::chrono::duration<double>(when.time_since_epoch()).count();
}

Health::Health(Router& router, rpc::EventLoop& loop) : router_(router), loop_(loop), timer_([this] { Tick(); }) {}

Health::~Health() { *alive_ = false; }

void Health::Start() { Arm(); }

void Health::Stop() { loop_.Disarm(&timer_); }

void Health::Arm() { loop_.Arm(&timer_, loop_.now() + kTick); }

void Health::Tick() {
  const double now = SecondsOf(loop_.now());
  for (const auto& peer : router_.TakeDueProbes(now)) ProbeBack(peer);
  for (const auto& peer : router_.Busy()) {
    const double quiet_since = std::max(peer->running.front()->started(), peer->answered_at);
    if (now - quiet_since <= router_.policy().suspect_after_s) {
      peer->missed_probes = 0;
    } else if (peer->asked == 0) {
      CheckHang(peer);
    }
  }
  router_.Sweep();
  Arm();
}

void Health::Ask(const std::shared_ptr<Peer>& peer, std::function<void(bool live, double now)> told) {
  rpc::CallOptions options;
  options.timeout = std::chrono::milliseconds(static_cast<std::int64_t>(router_.policy().probe_timeout_s * 1000));
  options.wait_for_ready = true;
  ++peer->asked;
  peer->channel->Unary(
      kServerLive, rpc::Message(), std::move(options),
      [this, alive = alive_, peer, told = std::move(told)](const Status& status, const rpc::Slice& answer) {
        if (!*alive) return;
        --peer->asked;
        told(status.ok() && ReadLive(answer.view()), SecondsOf(loop_.now()));
      });
}

void Health::ProbeBack(const std::shared_ptr<Peer>& peer) {
  Ask(peer, [this, peer](bool live, double now) { router_.Probed(*peer, live, now); });
}

void Health::CheckHang(const std::shared_ptr<Peer>& peer) {
  Ask(peer, [this, peer](bool live, double now) {
    peer->missed_probes = live ? 0 : peer->missed_probes + 1;
    if (live) peer->answered_at = now;
    if (peer->missed_probes < router_.policy().probes) return;  // the next tick asks again
    peer->missed_probes = 0;
    // Not here, in the middle of the channel that would be closed.
    loop_.Post([this, alive = alive_, peer] {
      if (*alive && !peer->running.empty()) router_.Hangs(*peer, SecondsOf(loop_.now()));
    });
  });
}

}  // namespace mesh::proxy
