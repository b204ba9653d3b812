// Follows how the requests of all applications are split in etcd and hands each new record to the proxy's loop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "proxy/traffic_view.h"
#include "registry/options.h"
#include "registry/watcher.h"
#include "rpc/event_loop.h"

namespace mesh::proxy {

class TrafficBook {
 public:
  struct Told {
    // Of one application, by "namespace/application", whenever its record has changed.
    std::function<void(const std::string& application, const routing::TrafficRecord&)> changed;
    std::function<void()> listed;  // once: all records are told
  };

  // Of one namespace, where it is not empty. Both are called on the loop.
  TrafficBook(const registry::Options& options, const std::string& name_space, std::shared_ptr<rpc::EventLoop> loop,
              Told told);
  ~TrafficBook();  // Stop()
  TrafficBook(const TrafficBook&) = delete;
  TrafficBook& operator=(const TrafficBook&) = delete;

  void Start();
  // Nothing is told any more when it returns; before the loop ends, and not on it.
  void Stop();

 private:
  // Belongs to the loop; the watcher's thread only posts.
  struct State {
    State(std::shared_ptr<rpc::EventLoop> on, Told tell) : loop(std::move(on)), told(std::move(tell)) {}
    void Apply(const registry::Listing& listing);
    void Apply(const std::vector<registry::etcd::WatchEvent>& events);
    TrafficView& ViewOf(const Application& application);

    std::map<std::string, TrafficView> views;
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
