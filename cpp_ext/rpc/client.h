// A gRPC client on nghttp2. A Channel keeps one HTTP/2 connection to one address, connects when first used, and
// reconnects with backoff. Callbacks run on the channel's event-loop thread and must not block it.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/status.h"
#include "rpc/message.h"
#include "rpc/server.h"

namespace mesh::rpc {

class EventLoop;

struct ChannelOptions {
  std::optional<TlsOptions> tls;                    // ca_file checks the server; read again for each connection
  std::string server_name;                          // for TLS; empty: the host of the address
  std::size_t max_message_bytes = (1UL << 31) - 1;  // of one received message, after decompression
  std::chrono::milliseconds connect_timeout{3000};  // until the server's HTTP/2 settings are there
  std::chrono::milliseconds min_backoff{100};
  std::chrono::milliseconds max_backoff{3000};
  std::chrono::milliseconds keepalive_interval{10000};  // PING when calls are open and nothing came for that long
  std::chrono::milliseconds keepalive_timeout{5000};
};

struct CallOptions {
  std::optional<std::chrono::milliseconds> timeout;  // sent as grpc-timeout and enforced here
  Metadata metadata;
  bool wait_for_ready = false;  // wait for a connection instead of UNAVAILABLE at once
};

// One streaming call from the client's side. Thread-safe. The call goes on when this is dropped.
class ClientCall {
 public:
  virtual ~ClientCall() = default;
  // Queues a message. After HalfClose or the end of the call it is quietly dropped.
  virtual void Send(Message message) = 0;
  virtual void HalfClose() = 0;
  // Ends the call with CANCELLED, unless it has ended already.
  virtual void Cancel() = 0;
  [[nodiscard]] virtual std::size_t unsent_bytes() const = 0;  // of this call; what a fast sender watches
  // While paused the server may send one window more (8 MiB) and then has to wait; what comes of that is handed to
  // on_message all the same.
  virtual void PauseReading(bool paused) = 0;
  // In on_done and after it: whether the server itself sent the status, so that the connection stands.
  [[nodiscard]] virtual bool answered() const = 0;
};

struct StreamCallbacks {
  std::function<void(Slice)> on_message;
  std::function<void()> on_sent;  // called each time unsent_bytes() has fallen to 0; may be empty
  std::function<void(Status, Metadata trailers)> on_done;  // exactly once, last
};

// A call that certainly was not processed ends with UNAVAILABLE and a message that ends with kNotProcessed: no
// connection was there, or the server refused it (REFUSED_STREAM, GOAWAY). Any call may be repeated after that. Unary
// calls that a server refused are repeated here a few times before they end so.
inline constexpr char kNotProcessed[] = "(not processed)";
[[nodiscard]] bool WasNotProcessed(const Status& status);

class Channel {
 public:
  // `address` is "host:port", "1.2.3.4:port" or "[v6]:port". Connects nowhere yet, and never fails: a bad address is
  // the status of the calls. With `loop` the channel lives on that one, which must run and outlive it, instead of a
  // thread of its own: whoever forwards calls saves two changes of threads for each. Close waits for the loop, so code
  // on one loop must not close channels of another.
  static std::shared_ptr<Channel> Create(std::string address, ChannelOptions options,
                                         std::shared_ptr<EventLoop> loop = nullptr);
  virtual ~Channel() = default;

  // `done` is called exactly once: OK with the answer, or the status that ended the call.
  virtual void Unary(const std::string& path, Message request, CallOptions options,
                     std::function<void(Status, Slice)> done) = 0;
  virtual std::shared_ptr<ClientCall> Stream(const std::string& path, CallOptions options,
                                             StreamCallbacks callbacks) = 0;
  // A Stream that sends `request` and half-closes: a unary call that can be cancelled and whose trailers are seen.
  // Nothing is repeated here.
  virtual std::shared_ptr<ClientCall> Ask(const std::string& path, Message request, CallOptions options,
                                          StreamCallbacks callbacks) = 0;
  // Waits for the answer. FAILED_PRECONDITION on the channel's own thread, which would wait for itself.
  Result<Slice> CallAndWait(const std::string& path, Message request, CallOptions options);
  // Ends all calls with CANCELLED and closes. Repeatable. When the first Close returns, no callback runs any more,
  // unless it was called from one.
  virtual void Close() = 0;

 protected:
  [[nodiscard]] virtual bool OnOwnThread() const = 0;
};

}  // namespace mesh::rpc
