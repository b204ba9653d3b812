// The renewal stream of one lease. Not thread-safe: one thread sends, asks and waits; answers arrive through a mailbox.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "registry/etcd_client.h"

namespace mesh::registry {

class Keepalive {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  enum class State : std::uint8_t {
    kAlive,   // answered in time
    kGone,    // etcd does not know the lease any more
    kExpired  // no answer before the lease's end by our own clock: it must be taken for lost
  };

  // `granted_at` is a time before the request that granted the lease was sent. `wake` is called, from another thread,
  // when something arrived.
  Keepalive(EtcdClient& client, std::int64_t lease, int ttl_s, TimePoint granted_at, std::function<void()> wake);
  ~Keepalive();
  Keepalive(const Keepalive&) = delete;
  Keepalive& operator=(const Keepalive&) = delete;

  // Reads what arrived, sends what is due, changes the endpoint when one is silent.
  State Step(TimePoint now);
  // When Step has something to do at the latest.
  [[nodiscard]] TimePoint NextStep() const;
  // Counts answers.
  [[nodiscard]] std::uint64_t renewals() const { return renewals_; }

 private:
  struct Mailbox {
    std::mutex mutex;
    std::deque<etcd::LeaseAnswer> answers;  // guarded by mutex
    bool ended = false;                     // guarded by mutex
    Status end;                             // guarded by mutex
  };

  void OpenStream(TimePoint now);
  void CloseStream(const Status& reason, TimePoint now);
  bool ReadMailbox(TimePoint now);  // false: the lease is gone
  void Send(TimePoint now);

  EtcdClient& client_;
  const std::int64_t lease_;
  const std::chrono::milliseconds interval_;
  const std::function<void()> wake_;
  std::chrono::milliseconds ttl_;
  TimePoint expires_;
  TimePoint next_send_;
  TimePoint next_open_;
  std::deque<TimePoint> sent_;  // times of unanswered requests
  std::shared_ptr<rpc::ClientCall> stream_;
  std::shared_ptr<Mailbox> mailbox_;
  std::uint64_t renewals_ = 0;
};

}  // namespace mesh::registry
