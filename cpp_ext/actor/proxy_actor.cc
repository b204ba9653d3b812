#include "actor/proxy_actor.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <thread>
#include <utility>

#include "actor/ray_node.h"
#include "actor/termination.h"
#include "common/log.h"

namespace mesh::actor {
namespace {

constexpr double kMaxDrainS = 24 * 3600;

}  // namespace

ProxyActor::ProxyActor(const std::string& config_json) {
  try {
    if (const mesh::Status started = Start(config_json); !started.ok()) broken_ = started.message();
  } catch (const std::exception& error) {
    broken_ = error.what();
  }
  if (broken_.empty()) return;
  broken_ = "the proxy cannot start: " + broken_;
  log::Error("proxy cannot start", {{"error", broken_}});
}

mesh::Status ProxyActor::Start(const std::string& config_json) {
  Result<proxy::ProxyConfig> config = proxy::ParseProxyConfig(config_json, NodeAddress());
  if (!config.ok()) return config.status();
  drain_timeout_ = config.value().drain_timeout;
  proxy_ = std::make_unique<proxy::Proxy>(std::move(config).value());
  if (mesh::Status started = proxy_->Start(); !started.ok()) return started;
  const mesh::Status watched = WatchTermination([this](int count) {
    log::Info("SIGTERM: the proxy leaves", {{"count", count}});
    if (count > 1) {
      proxy_->Stop();  // a drain that runs ends with it
      EndByTermination();
    } else {
      BeginDrain(drain_timeout_, true);
    }
  });
  if (!watched.ok()) log::Warning("SIGTERM will not drain the proxy", {{"error", watched.ToString()}});
  return {};
}

void ProxyActor::BeginDrain(std::chrono::milliseconds limit, bool then_end) {
  if (then_end) ending_.store(true);
  const std::lock_guard<std::mutex> lock(drain_mutex_);
  if (drained_ && then_end) EndByTermination();
  if (std::exchange(draining_, true)) return;
  std::thread([this, limit] {
    proxy_->Drain(limit);
    const std::lock_guard<std::mutex> end_lock(drain_mutex_);
    drained_ = true;
    if (ending_.load()) EndByTermination();
  }).detach();
}

std::string ProxyActor::Report(const char* method, const std::string& refused) {
  try {
    return broken_.empty() ? proxy_->Report(refused) : proxy::FailedReport(broken_);
  } catch (const std::exception& error) {
    log::Error("actor method failed", {{"method", method}, {"error", error.what()}});
    return "{}";
  }
}

std::string ProxyActor::Status() { return Report("Status"); }

std::string ProxyActor::Drain(double limit_s) {
  const double bounded = std::isfinite(limit_s) ? std::clamp(limit_s, 0.0, kMaxDrainS) : 0.0;
  if (broken_.empty()) BeginDrain(std::chrono::milliseconds(static_cast<std::int64_t>(bounded * 1000)), false);
  return Report("Drain");
}

// NOLINTNEXTLINE(readability-convert-member-functions-to-static): Ray calls methods of the object
std::string ProxyActor::Update(const std::string& /*update_json*/) {
  return Report("Update", "a proxy has no models to update");
}

std::string ProxyActor::Stop() {
  if (broken_.empty()) proxy_->Stop();
  return Report("Stop");
}

}  // namespace mesh::actor
