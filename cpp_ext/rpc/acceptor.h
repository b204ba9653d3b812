// The listening socket of a server.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/status.h"
#include "rpc/event_loop.h"

namespace mesh::rpc {

class Acceptor final : public IoHandler {
 public:
  // Binds and listens. The message of a failure names the address, the cause, and what to do.
  static Result<std::unique_ptr<Acceptor>> Listen(const std::string& host, int port);
  ~Acceptor() override;
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  [[nodiscard]] int port() const { return port_; }
  [[nodiscard]] const std::string& address() const { return address_; }

  // On the loop's thread, or before it starts: `accepted` gets each new socket, non-blocking.
  Status Start(EventLoop* loop, std::function<void(int fd)> accepted);
  // On the loop's thread. Repeatable.
  void Stop();

  void OnReady(std::uint32_t events) override;

 private:
  Acceptor(int fd, int port, std::string address);
  void Watch(std::uint32_t events);
  // False when it could not, for another thread was faster with the descriptor.
  bool RefuseOne();

  int fd_;
  int spare_fd_;  // given up to accept and close a connection when descriptors run out
  const int port_;
  const std::string address_;
  Timer resume_;
  EventLoop* loop_ = nullptr;
  std::function<void(int fd)> accepted_;
};

}  // namespace mesh::rpc
