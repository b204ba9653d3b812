// An endpoint as a proxy sees it: its channel, what runs on it, how it does.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>

#include "proxy/endpoint.h"
#include "routing/latency_tracker.h"
#include "routing/load.h"
#include "rpc/client.h"

namespace mesh::proxy {

// Something that runs on a peer, for as long as it is in the peer's list.
class RunningCall {
 public:
  RunningCall() = default;
  RunningCall(const RunningCall&) = delete;
  RunningCall& operator=(const RunningCall&) = delete;
  virtual ~RunningCall() = default;
  // The peer answers nothing any more: the call ends at once, as one that was lost.
  virtual void PeerHangs() = 0;
  [[nodiscard]] double started() const { return started_; }

 private:
  friend struct Peer;
  double started_ = 0.0;
};

// Belongs to the proxy's loop. Times are seconds of a steady clock.
struct Peer {
  using Key = std::uint64_t;

  Endpoint endpoint;
  Key key = 0;
  std::shared_ptr<rpc::Channel> channel;
  std::list<RunningCall*> running;  // oldest first
  double answered_at = 0.0;         // when it last answered anything
  routing::LatencyTracker latency;
  bool gone = false;  // left the view; kept until nothing runs on it
  int asked = 0;      // probes that run
  int missed_probes = 0;
  int copies = 0;  // of requests, whose answers are dropped: not in `running`, as they say nothing of it
  double copies_rest_until = 0.0;  // the last one was lost

  // Gets new work at all.
  [[nodiscard]] bool takes_work() const { return endpoint.ready && !gone; }
  [[nodiscard]] bool IsFull(int limit) const { return limit > 0 && running.size() >= static_cast<std::size_t>(limit); }
  [[nodiscard]] routing::Load LoadAt(double now) const {
    return {static_cast<double>(running.size()), endpoint.weight, latency.latency_s(now)};
  }
  [[nodiscard]] std::string Name() const { return "endpoint " + endpoint.id + " at " + endpoint.address; }

  std::list<RunningCall*>::iterator Add(RunningCall* call, double now) {
    call->started_ = now;
    return running.insert(running.end(), call);
  }
};

}  // namespace mesh::proxy
