// The methods of the test server, "/mesh.test.Echo/...". Messages are plain bytes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "rpc/server.h"

namespace mesh::rpc {

class EchoMethods {
 public:
  EchoMethods();
  ~EchoMethods() { Join(); }
  EchoMethods(const EchoMethods&) = delete;
  EchoMethods& operator=(const EchoMethods&) = delete;

  // Unary           the same bytes; metadata "echo-..." comes back as trailers, "x-status"/"x-message" are the status
  // Threaded        the same, answered from another thread
  // Sliced          the same bytes in slices of 1000
  // SendAndPark     the same, but the call ends only with FinishParked
  // Never           no answer; counts cancels
  // Throw           an exception out of the handler
  // Collect         client streaming: the sum of the sizes as text
  // Count           server streaming: request "N SIZE"; N messages of SIZE bytes, as fast as the client takes them
  // Bidi            each message comes back
  // BidiThreaded    the same from another thread
  // Deaf            streaming: takes no messages and gives no answer; counts cancels
  // EarlyError      streaming: fails at the first message
  // BadTrailers     trailers that HTTP/2 cannot carry
  void Register(Server* server);
  [[nodiscard]] std::int64_t cancelled() const { return cancelled_; }
  // Ends the thread that answers.
  void Join();

 private:
  void RunLater(std::function<void()> work);
  void Run();

  std::atomic<std::int64_t> cancelled_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> work_;
  std::vector<std::shared_ptr<ServerCall>> parked_;  // of the thread
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace mesh::rpc
