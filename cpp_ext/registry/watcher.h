// Follows a prefix of etcd: first what is there, then every change, for ever.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "registry/etcd_wire.h"
#include "registry/options.h"

namespace mesh::registry {

struct Listing {
  std::vector<etcd::KeyValue> kvs;  // in order of the keys
  std::int64_t revision = 0;
  std::uint64_t cluster_id = 0;
  // Another cluster id, or an older revision than was seen before: etcd lost data. What is missing here has not been
  // deleted by anybody, so it must not be read as "delete everything".
  bool store_replaced = false;
};

// Called on the watcher's own thread, one at a time. A change takes effect only after the ones before it were handled.
struct WatchCallbacks {
  // First of all, after a compaction that overtook us, and when the store was replaced.
  std::function<void(const Listing&)> on_listing;
  // In order of revisions; all changes of one revision come together.
  std::function<void(const std::vector<etcd::WatchEvent>&, std::int64_t revision)> on_changes;
  // Once when etcd stops answering: the view is stale until the next of the other two.
  std::function<void(const Status&)> on_disconnected;
};

class Watcher {
 public:
  Watcher(Options options, std::string prefix, WatchCallbacks callbacks);
  ~Watcher();  // Stop()
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  void Start();  // once
  // Returns when no callback runs any more. Not from a callback. Repeatable.
  void Stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::registry
