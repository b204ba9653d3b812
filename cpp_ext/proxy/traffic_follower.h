// Follows how an application's requests are split in etcd and hands each new record to the proxy's loop.
#pragma once

#include <functional>
#include <memory>

#include "proxy/traffic_view.h"
#include "registry/options.h"
#include "registry/watcher.h"
#include "rpc/event_loop.h"

namespace mesh::proxy {

class TrafficFollower {
 public:
  using Told = std::function<void(const routing::TrafficRecord&)>;

  // `told` runs on the loop: once etcd has said for the first time what there is, and whenever that changes.
  TrafficFollower(const registry::Options& options, const Application& application,
                  std::shared_ptr<rpc::EventLoop> loop, Told told);
  ~TrafficFollower();  // Stop()
  TrafficFollower(const TrafficFollower&) = delete;
  TrafficFollower& operator=(const TrafficFollower&) = delete;

  void Start();
  // Nothing is told any more when it returns; before the loop ends, and not on it.
  void Stop();

 private:
  // Belongs to the loop; the watcher's thread only posts.
  struct State {
    State(const Application& application, std::shared_ptr<rpc::EventLoop> on, Told tell)
        : view(application), loop(std::move(on)), told(std::move(tell)) {}

    TrafficView view;
    std::shared_ptr<rpc::EventLoop> loop;
    Told told;
    bool listed = false;
    bool stopped = false;
  };

  static registry::WatchCallbacks PostTo(const std::shared_ptr<State>& state);

  const std::shared_ptr<State> state_;
  registry::Watcher watcher_;
};

}  // namespace mesh::proxy
