#include "proxy/endpoint_follower.h"

#include <chrono>
#include <utility>

#include "common/log.h"
#include "proxy/health.h"

namespace mesh::proxy {
namespace {

template <typename State>
registry::WatchCallbacks PostTo(const std::shared_ptr<State>& state) {
  registry::WatchCallbacks callbacks;
  callbacks.on_listing = [state](const registry::Listing& listing) {
    state->loop->Post([state, listing] {
      if (listing.store_replaced) log::Warning("the store was replaced; what it does not hold is kept for a while");
      state->view.Apply(listing, SecondsOf(state->loop->now()));
      state->Tell();
      state->listed.store(true);
    });
  };
  callbacks.on_changes = [state](const std::vector<registry::etcd::WatchEvent>& events, std::int64_t /*revision*/) {
    state->loop->Post([state, events] {
      state->view.Apply(events, SecondsOf(state->loop->now()));
      state->Tell();
    });
  };
  callbacks.on_disconnected = [state](const Status& why) {
    log::Warning("etcd does not answer; the last view is used", {{"error", why.ToString()}});
    state->loop->Post([state] {
      state->view.Pause(SecondsOf(state->loop->now()));
      state->Tell();
    });
  };
  return callbacks;
}

}  // namespace

void EndpointFollower::State::Tell() {
  if (stopped) return;
  told(view.Current());
  loop->Disarm(&timer);
  const std::optional<double> expiry = view.next_expiry();
  if (!expiry) return;
  const auto since_epoch = std::chrono::duration<double>(*expiry);
  loop->Arm(&timer,
            rpc::EventLoop::TimePoint(std::chrono::duration_cast<std::chrono::steady_clock::duration>(since_epoch)));
}

void EndpointFollower::State::Expire() {
  view.Expire(SecondsOf(loop->now()));
  Tell();
}

EndpointFollower::EndpointFollower(const registry::Options& options, const Application& application,
                                   std::shared_ptr<rpc::EventLoop> loop, Told told, std::string_view role)
    : state_(std::make_shared<State>(application, std::move(loop), std::move(told))),
      watcher_(options, EndpointPrefix(application, role), PostTo(state_)) {}

EndpointFollower::~EndpointFollower() { Stop(); }

void EndpointFollower::Start() { watcher_.Start(); }

void EndpointFollower::Stop() {
  watcher_.Stop();
  state_->loop->PostAndWait([this] {
    state_->stopped = true;
    state_->loop->Disarm(&state_->timer);
  });
}

void EndpointFollower::Refused(const Endpoint& endpoint) {
  if (state_->view.Refused(endpoint.id, endpoint.address)) {
    // Not here, in the middle of a call to that endpoint.
    state_->loop->Post([state = state_] { state->Tell(); });
  }
}

}  // namespace mesh::proxy
