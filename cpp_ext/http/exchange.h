// One request and its answer, as handlers see them, and how a server is told of the handler.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "http/request.h"
#include "http/response.h"
#include "rpc/receive_buffer.h"
#include "rpc/server.h"

namespace mesh::http {

// Thread-safe but for request(), which belongs to whoever answers. Everything after the end is quietly dropped.
class Exchange {
 public:
  virtual ~Exchange() = default;

  [[nodiscard]] virtual Request& request() = 0;
  [[nodiscard]] virtual std::string_view peer() const = 0;  // "127.0.0.1:51234"
  [[nodiscard]] virtual bool done() const = 0;              // answered, or the client is gone
  // What a handler may count its own memory in, when the request makes it take much.
  [[nodiscard]] virtual const std::shared_ptr<rpc::ReceiveBudget>& budget() const = 0;
  // Called once, when the client goes away or the server stops before the answer is complete; at once if it already
  // has.
  virtual void OnCancel(std::function<void()> callback) = 0;

  // The whole answer.
  virtual void Respond(Response response) = 0;

  // Or an answer in parts: its head (whose body is ignored), any number of parts, its end.
  virtual void Begin(Response head) = 0;
  virtual void Write(rpc::Message part) = 0;
  virtual void End() = 0;
  [[nodiscard]] virtual std::size_t unsent_bytes() const = 0;  // of the parts; what a long stream watches
};

// Called on the connection's loop, when the request is complete; must not block. What it throws is logged, and the
// client is told "internal error".
using Handler = std::function<void(std::shared_ptr<Exchange>)>;

// For rpc::Server::SetHttp.
rpc::ConnectionFactory Serve(Handler handler);

}  // namespace mesh::http
