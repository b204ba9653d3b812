#include "proxy/traffic_follower.h"

#include <cstdint>
#include <utility>
#include <vector>

namespace mesh::proxy {

registry::WatchCallbacks TrafficFollower::PostTo(const std::shared_ptr<State>& state) {
  registry::WatchCallbacks callbacks;
  callbacks.on_listing = [state](const registry::Listing& listing) {
    state->loop->Post([state, listing] {
      const bool changed = state->view.Apply(listing);
      const bool first = !std::exchange(state->listed, true);
      if ((changed || first) && !state->stopped) state->told(state->view.current());
    });
  };
  callbacks.on_changes = [state](const std::vector<registry::etcd::WatchEvent>& events, std::int64_t /*revision*/) {
    state->loop->Post([state, events] {
      if (state->view.Apply(events) && !state->stopped) state->told(state->view.current());
    });
  };
  return callbacks;
}

TrafficFollower::TrafficFollower(const registry::Options& options, const Application& application,
                                 std::shared_ptr<rpc::EventLoop> loop, Told told)
    : state_(std::make_shared<State>(application, std::move(loop), std::move(told))),
      watcher_(options, TrafficKey(application), PostTo(state_)) {}

TrafficFollower::~TrafficFollower() { Stop(); }

void TrafficFollower::Start() { watcher_.Start(); }

void TrafficFollower::Stop() {
  watcher_.Stop();
  state_->loop->PostAndWait([this] { state_->stopped = true; });
}

}  // namespace mesh::proxy
