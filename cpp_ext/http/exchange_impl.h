// An exchange on its connection: what handlers do from any thread, and its half that lives on the connection's loop.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "http/exchange.h"
#include "rpc/event_loop.h"
#include "rpc/inflate_turns.h"

namespace mesh::http {

class Connection;

class ExchangeImpl final : public Exchange,
                           public rpc::LoopTask,
                           public rpc::InflateWork,
                           public std::enable_shared_from_this<ExchangeImpl> {
 public:
  ExchangeImpl(Connection* connection, Request request);

  // Exchange.
  [[nodiscard]] Request& request() override { return request_; }
  [[nodiscard]] std::string_view peer() const override { return *peer_; }
  [[nodiscard]] bool done() const override { return done_.load(std::memory_order_acquire); }
  [[nodiscard]] const std::shared_ptr<rpc::ReceiveBudget>& budget() const override { return budget_; }
  void OnCancel(std::function<void()> callback) override;
  void Respond(Response response) override;
  void Begin(Response head) override;
  void Write(rpc::Message part) override;
  void End() override;
  [[nodiscard]] std::size_t unsent_bytes() const override {
    return queued_.load(std::memory_order_relaxed) + unsent_.load(std::memory_order_relaxed);
  }

  // LoopTask: what other threads asked for.
  void RunInLoop() override;
  void Discard() override;
  // InflateWork.
  void InflateInTurn() override;

  // All that follows: on the loop.
  // The connection forgets it: the client sees nothing more of it.
  void Detach() { connection_ = nullptr; }
  // The same, and its handler is told.
  void Cancel();
  // How many bytes of it the connection has not written yet.
  void SetUnsent(std::size_t bytes) { unsent_.store(bytes, std::memory_order_relaxed); }

 private:
  struct Outbox {
    std::optional<Response> start;
    bool streamed = false;
    std::vector<rpc::Message> parts;
    bool ended = false;
  };
  // Puts it out: now, or from the loop. Gives the lock up.
  void Submit(std::unique_lock<std::mutex> lock);
  void Pump();

  Connection* connection_;  // loop only; null after the end
  const std::shared_ptr<rpc::EventLoop> loop_;
  const std::shared_ptr<rpc::ReceiveBudget> budget_;
  const std::shared_ptr<const std::string> peer_;
  Request request_;

  std::atomic<bool> done_{false};
  std::atomic<std::size_t> queued_{0};
  std::atomic<std::size_t> unsent_{0};
  std::mutex mutex_;  // guards what follows
  Outbox outbox_;
  bool scheduled_ = false;
  std::shared_ptr<ExchangeImpl> scheduled_self_;
  std::function<void()> on_cancel_;
};

}  // namespace mesh::http
