// Finds endpoints that hang and probes ejected ones back, beside the requests. The twin of
// serving/discovery/client_health.py.
//
// A request that runs long says nothing: inference may take minutes. So an endpoint that has not answered anything for
// a while is asked whether it is live; one that does not answer several times hangs, and what runs on it goes
// elsewhere.
#pragma once

#include <functional>
#include <memory>

#include "proxy/router.h"
#include "rpc/event_loop.h"

namespace mesh::proxy {

// Seconds of the loop's clock.
double SecondsOf(rpc::EventLoop::TimePoint when);

// Belongs to the loop and must outlive the router's channels.
class Health {
 public:
  Health(Router& router, rpc::EventLoop& loop);
  ~Health();
  Health(const Health&) = delete;
  Health& operator=(const Health&) = delete;

  void Start();
  void Stop();

 private:
  void Tick();
  void Arm();
  void ProbeBack(const std::shared_ptr<Peer>& peer);
  void CheckHang(const std::shared_ptr<Peer>& peer);
  void Ask(const std::shared_ptr<Peer>& peer, std::function<void(bool live, double now)> told);

  Router& router_;
  rpc::EventLoop& loop_;
  rpc::Timer timer_;
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // false when the answers have nobody to go to
};

}  // namespace mesh::proxy
