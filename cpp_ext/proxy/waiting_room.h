// Requests for which there is no peer now: all at their limit, or none there yet. Bounded.
#pragma once

#include <atomic>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include "proxy/request_head.h"

namespace mesh::proxy {

class Waiter {
 public:
  Waiter() = default;
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  virtual ~Waiter() = default;
  // A peer may be there. True when the request needs to wait no longer.
  virtual bool TryAgain() = 0;
};

// Belongs to the proxy's loop. Those that wait for the same are served in the order in which they came.
class WaitingRoom {
 public:
  explicit WaitingRoom(std::size_t most) : most_(most) {}

  [[nodiscard]] std::size_t size() const { return size_; }  // on any thread
  [[nodiscard]] bool full() const { return size_ >= most_; }
  [[nodiscard]] bool half_full() const { return 2 * size_ >= most_; }
  void Enter(const RequestHead& head, const std::shared_ptr<Waiter>& waiter);
  // Takes it out, wherever it is; quiet when it is not there.
  void Leave(const RequestHead& head, const Waiter* waiter);
  // Room or an endpoint has come.
  void Serve();

 private:
  using Line = std::deque<std::shared_ptr<Waiter>>;

  void ServeLine(const std::string& name);

  const std::size_t most_;
  std::atomic<std::size_t> size_{0};
  std::map<std::string, Line> lines_;
  bool serving_ = false;
  bool again_ = false;
};

}  // namespace mesh::proxy
