// What all connections of one server share, and what those of one loop share.
#pragma once

#include <nghttp2/nghttp2.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "rpc/event_loop.h"
#include "rpc/framing.h"
#include "rpc/inflate_turns.h"
#include "rpc/served_connection.h"
#include "rpc/server.h"
#include "rpc/transport.h"

namespace mesh::rpc {

// Written by one loop, read by anyone.
class Counter {
 public:
  void Add(std::uint64_t n) { value_.store(get() + n, std::memory_order_relaxed); }
  void Subtract(std::uint64_t n) { value_.store(get() - n, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

struct Method {
  UnaryHandler unary;  // exactly one of the two
  StreamHandler stream;
};

// Immutable while the server runs, but for the counters.
struct ServerContext {
  static constexpr std::size_t kStreamWindow = 256UL * 1024;  // what a client may send before we answer
  static constexpr std::size_t kConnectionWindow = 16UL << 20;

  explicit ServerContext(ServerOptions given);
  ~ServerContext();
  ServerContext(const ServerContext&) = delete;
  ServerContext& operator=(const ServerContext&) = delete;

  void Log(std::string_view event, std::string_view detail) const {
    if (options.log) options.log(event, detail);
  }

  [[nodiscard]] std::uint64_t unsent_bytes() const;

  const ServerOptions options;  // limits of 0 replaced by what they stand for
  std::map<std::string, Method, std::less<>> methods;
  std::shared_ptr<TlsContext> tls;
  ConnectionFactory http;                       // empty: HTTP/2 only
  const std::shared_ptr<ReceiveBudget> budget;  // slices in the hands of handlers outlive the server
  std::vector<const Counter*> unsent_by_loop;
  std::vector<std::function<void()>> drain_callbacks;
  std::atomic<std::size_t> connections{0};
  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_option* session_options = nullptr;
};

struct LoopCounters {
  Counter connections_total, connections_open, calls_total, calls_open, bytes_received, bytes_sent, bytes_unsent,
      protocol_errors;
};

// One event loop with its connections. All but the constructor, Start, Stop and counters(): on the loop's thread.
class ServerLoop {
 public:
  ServerLoop(std::shared_ptr<ServerContext> context, std::shared_ptr<EventLoop> loop);
  ~ServerLoop();
  ServerLoop(const ServerLoop&) = delete;
  ServerLoop& operator=(const ServerLoop&) = delete;

  // Takes the accepted socket.
  void Adopt(int fd);
  // The connection has given its socket to `next`.
  void Replace(ServedConnection* connection, std::unique_ptr<ServedConnection> next);
  // The connection is closed; it is freed at the end of the iteration, because its own code may be running.
  void Bury(ServedConnection* connection);
  // Only bytes that nobody needs are left on it: nothing for Drain to wait for.
  void ConnectionQuiet();

  // Tells all connections, and calls `drained` once, as soon as no connection has work left.
  void BeginDrain(std::function<void()> drained);
  // Ends all calls with UNAVAILABLE and closes all connections.
  void AbortAll();

  [[nodiscard]] EventLoop& loop() const { return *loop_; }
  [[nodiscard]] const std::shared_ptr<EventLoop>& shared_loop() const { return loop_; }
  [[nodiscard]] ServerContext& context() const { return *context_; }
  [[nodiscard]] LoopCounters& counters() { return counters_; }
  [[nodiscard]] const LoopCounters& counters() const { return counters_; }
  // Received bytes go here first; one for all connections, as they are read one after the other.
  [[nodiscard]] std::vector<char>& read_buffer() { return read_buffer_; }
  [[nodiscard]] InflateTurns& inflate_turns() { return inflate_turns_; }

 private:
  class GraveDigger : public LoopTask {
   public:
    explicit GraveDigger(ServerLoop* owner) : owner_(owner) {}
    void RunInLoop() override;

   private:
    ServerLoop* const owner_;
  };

  void CheckDrained();
  void FreeLater(ServedConnection* connection);

  const std::shared_ptr<ServerContext> context_;
  const std::shared_ptr<EventLoop> loop_;
  LoopCounters counters_;
  std::vector<char> read_buffer_;
  std::unordered_set<ServedConnection*> connections_;
  std::vector<std::unique_ptr<ServedConnection>> buried_;
  GraveDigger grave_digger_{this};
  InflateTurns inflate_turns_;
  bool draining_ = false;
  std::function<void()> drained_;
};

}  // namespace mesh::rpc
