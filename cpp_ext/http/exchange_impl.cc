#include "http/exchange_impl.h"

#include <utility>

#include "http/connection.h"

namespace mesh::http {

ExchangeImpl::ExchangeImpl(Connection* connection, Request request)
    : connection_(connection),
      loop_(connection->owner().shared_loop()),
      budget_(connection->owner().context().budget),
      peer_(connection->peer()),
      request_(std::move(request)) {}

void ExchangeImpl::OnCancel(std::function<void()> callback) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!done()) {
      on_cancel_ = std::move(callback);
      return;
    }
    if (outbox_.ended) return;
  }
  if (callback) callback();
}

void ExchangeImpl::Respond(Response response) {
  std::function<void()> on_cancel;  // freed outside of the lock: it may own whatever it likes
  std::unique_lock<std::mutex> lock(mutex_);
  if (done()) return;
  outbox_.start = std::move(response);
  outbox_.ended = true;
  on_cancel.swap(on_cancel_);
  done_.store(true, std::memory_order_release);
  Submit(std::move(lock));
}

void ExchangeImpl::Begin(Response head) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (done()) return;
  outbox_.start = std::move(head);
  outbox_.streamed = true;
  Submit(std::move(lock));
}

void ExchangeImpl::Write(rpc::Message part) {
  if (part.size() == 0) return;  // an empty chunk would be the end
  std::unique_lock<std::mutex> lock(mutex_);
  if (done()) return;
  queued_.fetch_add(part.size(), std::memory_order_relaxed);
  outbox_.parts.push_back(std::move(part));
  Submit(std::move(lock));
}

void ExchangeImpl::End() {
  std::function<void()> on_cancel;
  std::unique_lock<std::mutex> lock(mutex_);
  if (done()) return;
  outbox_.ended = true;
  on_cancel.swap(on_cancel_);
  done_.store(true, std::memory_order_release);
  Submit(std::move(lock));
}

void ExchangeImpl::Submit(std::unique_lock<std::mutex> lock) {
  if (loop_->InLoop()) {
    lock.unlock();
    Pump();
    return;
  }
  if (scheduled_) return;
  scheduled_ = true;
  scheduled_self_ = shared_from_this();
  const std::shared_ptr<rpc::EventLoop> loop = loop_;  // this may be freed as soon as the lock is
  lock.unlock();
  loop->Post(this);
}

void ExchangeImpl::RunInLoop() {
  std::shared_ptr<ExchangeImpl> held;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    scheduled_ = false;
    held = std::move(scheduled_self_);
    scheduled_self_.reset();
  }
  Pump();
}

void ExchangeImpl::Discard() {
  std::shared_ptr<ExchangeImpl> held;
  const std::lock_guard<std::mutex> lock(mutex_);
  scheduled_ = false;
  held.swap(scheduled_self_);
}

void ExchangeImpl::InflateInTurn() {
  if (connection_ != nullptr) connection_->Inflate();
}

void ExchangeImpl::Pump() {
  const std::shared_ptr<ExchangeImpl> held = shared_from_this();  // the connection lets go of it at its end
  Outbox out;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    out.start.swap(outbox_.start);
    out.parts.swap(outbox_.parts);
    out.streamed = outbox_.streamed;
    out.ended = outbox_.ended;
  }
  std::size_t bytes = 0;
  for (const rpc::Message& part : out.parts) bytes += part.size();
  queued_.fetch_sub(bytes, std::memory_order_relaxed);
  if (connection_ != nullptr && out.start.has_value()) connection_->SendHead(*out.start, out.streamed);
  for (const rpc::Message& part : out.parts) {
    if (connection_ != nullptr) connection_->SendPart(part);
  }
  if (connection_ != nullptr && out.ended) connection_->EndExchange();
}

void ExchangeImpl::Cancel() {
  connection_ = nullptr;
  std::function<void()> on_cancel;
  Outbox dropped;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (done()) return;
    done_.store(true, std::memory_order_release);
    on_cancel.swap(on_cancel_);
    std::swap(dropped, outbox_);
  }
  if (on_cancel) on_cancel();
}

}  // namespace mesh::http
