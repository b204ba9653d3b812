// Follows a prefix of etcd and writes what it is told as JSON lines, until its standard input ends.
//
// Argument: {"endpoints": [..], "prefix": ..}. Lines: {"event": "listing", "keys": {..}, "replaced", "revision"},
// {"event": "changes", "puts": [[key, value]..], "deletes": [..], "revision"}, {"event": "disconnected", "error"}.
#include <iostream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>

#include "common/json.h"
#include "registry/watcher.h"

namespace {

using nlohmann::json;

void Emit(const json& event) { std::cout << mesh::json::Dump(event) << std::endl; }

mesh::registry::WatchCallbacks Callbacks() {
  mesh::registry::WatchCallbacks callbacks;
  callbacks.on_listing = [](const mesh::registry::Listing& listing) {
    json keys = json::object();
    for (const auto& kv : listing.kvs) keys[kv.key] = kv.value;
    Emit({{"event", "listing"}, {"keys", keys}, {"replaced", listing.store_replaced}, {"revision", listing.revision}});
  };
  callbacks.on_changes = [](const std::vector<mesh::registry::etcd::WatchEvent>& events, std::int64_t revision) {
    json puts = json::array();
    json deletes = json::array();
    for (const auto& event : events) {
      if (event.deleted) {
        deletes.push_back(event.kv.key);
      } else {
        puts.push_back(json::array({event.kv.key, event.kv.value}));
      }
    }
    Emit({{"event", "changes"}, {"puts", puts}, {"deletes", deletes}, {"revision", revision}});
  };
  callbacks.on_disconnected = [](const mesh::Status& status) {
    Emit({{"event", "disconnected"}, {"error", status.ToString()}});
  };
  return callbacks;
}

}  // namespace

int main(int argc, char** argv) {
  const auto config = mesh::json::Parse(argc > 1 ? argv[1] : "", "the argument");
  if (!config.ok()) {
    std::cerr << config.status().ToString() << std::endl;
    return 2;
  }
  mesh::json::Fields in(config.value());
  mesh::registry::Options options;
  options.endpoints = in.Texts("endpoints");
  mesh::registry::Watcher watcher(options, in.Text("prefix"), Callbacks());
  watcher.Start();
  for (std::string line; std::getline(std::cin, line);) {
  }
  watcher.Stop();
  return 0;
}
