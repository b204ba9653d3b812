// Follows the endpoints of an application in etcd and hands each new picture to the proxy's loop.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "proxy/endpoint.h"
#include "proxy/endpoint_view.h"
#include "registry/options.h"
#include "registry/watcher.h"
#include "rpc/event_loop.h"

namespace mesh::proxy {

class EndpointFollower {
 public:
  using Told = std::function<void(std::vector<Endpoint>)>;

  // `told` runs on the loop, whenever the picture of the endpoints of that role has changed.
  EndpointFollower(const registry::Options& options, const Application& application,
                   std::shared_ptr<rpc::EventLoop> loop, Told told, std::string_view role = "direct");
  ~EndpointFollower();  // Stop()
  EndpointFollower(const EndpointFollower&) = delete;
  EndpointFollower& operator=(const EndpointFollower&) = delete;

  void Start();  // once; repeatable
  // Nothing is told any more when it returns; before the loop ends, and not on it.
  void Stop();
  // Nobody listens at the endpoint's address. On the loop.
  void Refused(const Endpoint& endpoint);
  // True once etcd has said which endpoints there are. On any thread.
  [[nodiscard]] bool listed() const { return state_->listed.load(); }

 private:
  // The view belongs to the loop; the watcher's thread only posts.
  struct State {
    State(Application application, std::shared_ptr<rpc::EventLoop> on, Told tell)
        : view(std::move(application)), loop(std::move(on)), told(std::move(tell)), timer([this] { Expire(); }) {}
    void Expire();
    void Tell();

    EndpointView view;
    std::shared_ptr<rpc::EventLoop> loop;
    Told told;
    rpc::Timer timer;
    std::atomic<bool> listed{false};
    bool stopped = false;
  };

  const std::shared_ptr<State> state_;
  registry::Watcher watcher_;
};

}  // namespace mesh::proxy
