// Prometheus metrics over HTTP/1.1.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "common/status.h"

namespace mesh::ingress {

struct MetricsServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;                             // 0: any free one
  std::size_t max_header_bytes = 8192;      // more: 431
  std::size_t max_connections = 64;         // more wait until one ends
  std::chrono::milliseconds timeout{5000};  // for a whole request, and for taking its answer
};

// Answers GET and HEAD /metrics with a text, one request per connection, on a thread of its own.
class MetricsServer {
 public:
  // `text` makes the body of one answer, on the server's thread; a failure is answered 500 and logged.
  MetricsServer(MetricsServerOptions options, std::function<Result<std::string>()> text);
  ~MetricsServer();  // Stop()
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  // Binds and serves. The message of a failure names the address and the cause.
  Status Start();
  [[nodiscard]] int port() const;
  [[nodiscard]] std::string address() const;  // host:port
  void Stop();                                // repeatable

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::ingress
