#include "proxy/traffic_book.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh::proxy {
namespace {

constexpr std::string_view kApps = "/mesh/v1/apps/";
constexpr std::string_view kTraffic = "traffic";

// Whose TrafficRecord is at that key; none for all that else is kept of applications.
std::optional<Application> OwnerOf(std::string_view key) {
  if (key.substr(0, kApps.size()) != kApps) return std::nullopt;
  key.remove_prefix(kApps.size());
  const std::size_t first = key.find('/');
  const std::size_t second = first == std::string_view::npos ? first : key.find('/', first + 1);
  if (second == std::string_view::npos || key.substr(second + 1) != kTraffic) return std::nullopt;
  return Application{std::string(key.substr(0, first)), std::string(key.substr(first + 1, second - first - 1))};
}

}  // namespace

TrafficView& TrafficBook::State::ViewOf(const Application& application) {
  return views.try_emplace(application.Full(), application).first->second;
}

void TrafficBook::State::Apply(const registry::Listing& listing) {
  for (const registry::etcd::KeyValue& kv : listing.kvs) ViewOf(*OwnerOf(kv.key));
  for (auto& [name, view] : views) {
    if (view.Apply(listing)) told.changed(name, view.current());
  }
  if (!std::exchange(listed, true)) told.listed();
}

void TrafficBook::State::Apply(const std::vector<registry::etcd::WatchEvent>& events) {
  for (const registry::etcd::WatchEvent& event : events) {
    const std::optional<Application> owner = OwnerOf(event.kv.key);
    TrafficView& view = ViewOf(*owner);
    if (view.Apply({event})) told.changed(owner->Full(), view.current());
    if (event.deleted) views.erase(owner->Full());
  }
}

registry::WatchCallbacks TrafficBook::PostTo(const std::shared_ptr<State>& state) {
  registry::WatchCallbacks callbacks;
  callbacks.on_listing = [state](const registry::Listing& all) {
    registry::Listing listing = all;
    const auto other = [](const registry::etcd::KeyValue& kv) { return !OwnerOf(kv.key); };
    listing.kvs.erase(std::remove_if(listing.kvs.begin(), listing.kvs.end(), other), listing.kvs.end());
    state->loop->Post([state, listing = std::move(listing)] {
      if (!state->stopped) state->Apply(listing);
    });
  };
  callbacks.on_changes = [state](const std::vector<registry::etcd::WatchEvent>& all, std::int64_t /*revision*/) {
    std::vector<registry::etcd::WatchEvent> events;
    std::copy_if(all.begin(), all.end(), std::back_inserter(events),
                 [](const registry::etcd::WatchEvent& event) { return OwnerOf(event.kv.key).has_value(); });
    if (events.empty()) return;
    state->loop->Post([state, events = std::move(events)] {
      if (!state->stopped) state->Apply(events);
    });
  };
  return callbacks;
}

TrafficBook::TrafficBook(const registry::Options& options, const std::string& name_space,
                         std::shared_ptr<rpc::EventLoop> loop, Told told)
    : state_(std::make_shared<State>(std::move(loop), std::move(told))),
      watcher_(options, std::string(kApps) + (name_space.empty() ? "" : name_space + '/'), PostTo(state_)) {}

TrafficBook::~TrafficBook() { Stop(); }

void TrafficBook::Start() { watcher_.Start(); }

void TrafficBook::Stop() {
  watcher_.Stop();
  state_->loop->PostAndWait([this] { state_->stopped = true; });
}

}  // namespace mesh::proxy
