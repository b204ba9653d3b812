// One client's HTTP/1.x connection: requests come one after the other, and so do their answers. What a client sends
// ahead (pipelining) waits. Lives on one loop and is touched by no other thread.
//
//   kOpen --an answer with "Connection: close" is out, or the server drains and nothing is left--> kLingering
//   kLingering --EOF or 1 s--> kClosed        any --error, timeout, the client closed--> kClosed
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "http/exchange_impl.h"
#include "http/request_parser.h"
#include "rpc/compression.h"
#include "rpc/event_loop.h"
#include "rpc/output_queue.h"
#include "rpc/served_connection.h"
#include "rpc/server_context.h"
#include "rpc/transport.h"

namespace mesh::http {

class Connection final : public rpc::ServedConnection {
 public:
  // `first_bytes` were read from the transport already.
  Connection(rpc::ServerLoop* owner, std::unique_ptr<rpc::Transport> transport, std::string first_bytes,
             std::shared_ptr<const Handler> handler);
  ~Connection() override;

  // ServedConnection.
  void Start() override;
  void OnReady(std::uint32_t events) override;
  void BeginDrain() override;
  void Abort() override;
  [[nodiscard]] bool busy() const override;

  // What exchanges need.
  [[nodiscard]] rpc::ServerLoop& owner() const { return *owner_; }
  [[nodiscard]] const std::shared_ptr<const std::string>& peer() const { return peer_; }
  void SendHead(const Response& response, bool streamed);
  void SendPart(const rpc::Message& part);
  void EndExchange();
  // Goes on with the decompression of a request's body.
  void Inflate();

 private:
  enum class State : std::uint8_t { kOpen, kLingering, kClosed };
  class FlushTask : public rpc::LoopTask {
   public:
    explicit FlushTask(Connection* connection) : connection_(connection) {}
    void RunInLoop() override { connection_->Flush(); }

   private:
    Connection* const connection_;
  };

  // connection.cc
  void ReadInput();
  bool ReadOnce();
  void AfterInput();
  void Feed(std::string_view bytes);
  void Hold(std::string_view bytes);
  void FeedHeld();
  void Dispatch();
  void Handle();
  void Refuse(const RequestParser::Failure& failure);
  [[nodiscard]] bool wants_input() const;
  [[nodiscard]] bool may_begin();

  // connection_output.cc
  void AppendMessage(const rpc::Message& message);
  void MarkDirty();
  void Flush();
  void AfterFlush(bool blocked);
  void CountUnsent();
  [[nodiscard]] bool clogged() const;
  void UpdateInterest(bool blocked);

  // connection_life.cc
  void ClientClosed();
  void Linger();
  void DropExchange();
  void Close();
  void Watch();
  void OnWatchdog();
  bool EndIfOverdue();
  void TimedOut(const char* why);

  rpc::ServerLoop* const owner_;
  rpc::EventLoop& loop_;
  const rpc::ServerOptions& options_;
  const std::unique_ptr<rpc::Transport> transport_;
  const std::shared_ptr<const Handler> handler_;
  const std::shared_ptr<const std::string> peer_;
  State state_ = State::kOpen;
  RequestParser parser_;

  // Of the request that is being answered.
  std::shared_ptr<ExchangeImpl> exchange_;
  std::unique_ptr<rpc::Decompression> inflating_;
  bool is_head_ = false;
  bool is_http10_ = false;
  bool chunks_ = false;      // its answer comes in chunks
  bool answering_ = false;   // its head is out
  bool keep_alive_ = false;  // what the client wishes; after the head, what it was told

  std::string held_;      // received after the request that is being answered; counted in the budget
  bool closing_ = false;  // after what is in the output; nothing more is read
  bool draining_ = false;
  bool client_closed_ = false;

  rpc::OutputQueue output_;
  std::size_t counted_unsent_ = 0;
  FlushTask flush_task_{this};
  bool dirty_ = false;
  std::uint32_t interest_ = 0;

  rpc::Timer watchdog_;
  rpc::Timer next_turn_;
  int begun_in_turn_ = 0;
  rpc::EventLoop::TimePoint turn_{};
  rpc::EventLoop::TimePoint last_read_;
  rpc::EventLoop::TimePoint last_moved_;      // when output went out, or began to wait
  rpc::EventLoop::TimePoint head_began_{};    // not zero while a request's head is incomplete
  rpc::EventLoop::TimePoint drain_notice_{};  // not zero while a drain waits for what may be on its way
  rpc::EventLoop::TimePoint linger_until_{};
};

}  // namespace mesh::http
