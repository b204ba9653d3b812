// A gRPC server (gRPC over HTTP/2, https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md) on nghttp2.
//
// Several event-loop threads share one port (SO_REUSEPORT is not used: one acceptor hands connections round). A
// connection lives on one loop. Handlers run on the connection's loop and must not block; they answer whenever they
// like, from any thread, through ServerCall.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status.h"
#include "rpc/message.h"

namespace mesh::rpc {

class EventLoop;
class ServedConnection;
class ServerLoop;
class Transport;

using Metadata = std::vector<std::pair<std::string, std::string>>;  // lower-case keys; "-bin" values already decoded

struct TlsOptions {
  std::string cert_file;
  std::string key_file;
  std::string ca_file;  // not empty on a server: clients must present a certificate of this CA (mTLS)
};

// What answers are compressed with, when the client's grpc-accept-encoding allows it.
enum class ResponseCompression : std::uint8_t { kNone, kGzip, kDeflate, kLikeRequest };

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;  // 0: any free one
  int event_loops = 1;
  std::chrono::microseconds busy_poll{0};            // how long a loop polls before it sleeps, see EventLoop; 0: not
  std::size_t max_message_bytes = (1UL << 31) - 1;   // of one received message, as it arrives
  std::size_t max_decompressed_bytes = 256UL << 20;  // of one compressed message, after decompression
  std::size_t max_metadata_bytes = 16UL * 1024;
  std::uint32_t max_concurrent_streams = 1000;  // per connection
  std::size_t max_connections = 10000;
  // A connection with more unsent bytes is clogged: its requests wait until its client has taken some answers. Of a
  // stream with a quarter of it no further messages are taken until its answers have gone out.
  std::size_t max_pending_bytes = 64UL << 20;
  // While all connections together have more unsent bytes, each with more than 64 KiB is clogged. 0: a quarter of the
  // memory that this process may use.
  std::size_t max_unsent_bytes = 0;
  // A clogged connection of whose answers nothing goes out for that long is closed.
  std::chrono::milliseconds clogged_timeout{60000};
  // Of all received messages in memory at one time, see ReceiveBudget; also the largest possible message. 0: half of
  // the memory that this process may use.
  std::size_t max_receiving_bytes = 0;
  std::chrono::milliseconds keepalive_interval{30000};    // PING when a connection was silent that long
  std::chrono::milliseconds keepalive_timeout{10000};     // no answer: closed
  std::chrono::milliseconds handshake_timeout{10000};     // TLS and HTTP/2 preface
  std::chrono::milliseconds idle_message_timeout{60000};  // a half-received message that makes no progress: cancelled
  std::chrono::milliseconds idle_connection_timeout{300000};  // an HTTP/1 connection without a request: closed
  ResponseCompression response_compression = ResponseCompression::kNone;
  std::optional<TlsOptions> tls;
  // Called (on any thread) for what no client can be told: "handler threw", "connection rejected", ... with a detail.
  std::function<void(std::string_view event, std::string_view detail)> log;
};

// One RPC, as its handler sees it. Thread-safe. Everything after the end of the call is quietly dropped.
class ServerCall {
 public:
  virtual ~ServerCall() = default;

  [[nodiscard]] virtual std::string_view path() const = 0;  // "/inference.GRPCInferenceService/ModelInfer"
  [[nodiscard]] virtual const Metadata& metadata() const = 0;
  [[nodiscard]] virtual std::string_view peer() const = 0;  // "127.0.0.1:51234"
  [[nodiscard]] virtual std::optional<std::chrono::steady_clock::time_point> deadline() const = 0;
  [[nodiscard]] virtual bool done() const = 0;  // finished, cancelled, expired or disconnected
  // Called once, when the call ends before Finish (cancel, deadline, lost connection); at once if it already has.
  virtual void OnCancel(std::function<void()> callback) = 0;

  // Streaming requests: `callback` gets each message and then one nullopt after the client half-closed. The next
  // message is taken from the socket only after `callback` returned, so a slow handler slows its client.
  virtual void OnMessage(std::function<void(std::optional<Slice>)> callback) = 0;

  // While paused no further messages are taken, and the client may send one window more. On the call's loop only.
  virtual void PauseMessages(bool paused) = 0;

  // Queues a message. For a unary method at most one, directly before Finish.
  virtual void Send(Message message) = 0;
  [[nodiscard]] virtual std::size_t unsent_bytes() const = 0;  // of this call; what a streaming handler watches
  virtual void OnSent(std::function<void()> callback) = 0;     // called each time unsent_bytes() falls to 0
  virtual void Finish(Status status, Metadata trailers) = 0;
  void Finish(Status status) { Finish(std::move(status), {}); }

  void Reply(Message message) {
    Send(std::move(message));
    Finish(Status());
  }
};

using UnaryHandler = std::function<void(std::shared_ptr<ServerCall>, Slice request)>;
using StreamHandler = std::function<void(std::shared_ptr<ServerCall>)>;

// Takes over a connection whose client speaks HTTP/1: the socket, and what was read from it already.
using ConnectionFactory = std::function<std::unique_ptr<ServedConnection>(
    ServerLoop* owner, std::unique_ptr<Transport> transport, std::string first_bytes)>;

struct ServerStats {
  std::uint64_t connections_open = 0;
  std::uint64_t connections_total = 0;
  std::uint64_t calls_total = 0;
  std::uint64_t calls_open = 0;
  std::uint64_t bytes_received = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_unsent = 0;     // answers that wait for their clients
  std::uint64_t bytes_receiving = 0;  // of ServerOptions::max_receiving_bytes
  std::uint64_t protocol_errors = 0;
  std::uint64_t loop_sleeps = 0;  // how often a loop had nothing to do and went to sleep, see ServerOptions::busy_poll
};

class Server {
 public:
  explicit Server(ServerOptions options);
  ~Server();  // Stop()
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Before Start. `path` is "/package.Service/Method". An unknown path is answered UNIMPLEMENTED.
  void AddUnary(std::string path, UnaryHandler handler);
  void AddStream(std::string path, StreamHandler handler);
  [[nodiscard]] std::vector<std::string> paths() const;  // of all methods, sorted

  // Before Start. Serves HTTP/1 on the same port: the first bytes of a connection decide, and with TLS the client may
  // offer "http/1.1", or nothing, by ALPN. (See http::Serve.)
  void SetHttp(ConnectionFactory factory);

  // Before Start. `callback` is called when Drain or Stop begins, before connections are told: services end their
  // endless streams there.
  void OnDrain(std::function<void()> callback);

  // Binds, and serves nothing yet: port() and loop() are known. The message of a failure names the address and the
  // cause. Start does it where it was not done.
  Status Prepare();
  Status Start();
  // The loop of all connections, where event_loops is 1: channels that join it save changes of threads.
  [[nodiscard]] const std::shared_ptr<EventLoop>& loop() const;
  [[nodiscard]] int port() const;             // the bound one
  [[nodiscard]] std::string address() const;  // host:port

  // Stops accepting, sends GOAWAY, lets running calls finish until `limit`. True when all finished. Repeatable.
  bool Drain(std::chrono::milliseconds limit);
  // Ends everything at once: open calls end with UNAVAILABLE. Repeatable, never throws.
  void Stop();
  [[nodiscard]] ServerStats stats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::rpc
