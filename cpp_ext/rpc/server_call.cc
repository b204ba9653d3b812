// The half of a call that handlers see, and what it asks of the loop.
#include "rpc/server_call.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "rpc/server_connection.h"

namespace mesh::rpc {

CallImpl::CallImpl(Connection* connection, std::int32_t stream_id)
    : connection_(connection),
      loop_(connection->owner().shared_loop()),
      peer_(connection->peer()),
      stream_id_(stream_id),
      reader_(connection->owner().context().options.max_message_bytes, connection->owner().context().budget.get()),
      deadline_timer_([this] {
        Abort({Code::kDeadlineExceeded, "the deadline of the call passed before it was answered"});
      }),
      started_(loop_->now()),
      last_progress_(started_) {}

void CallImpl::OnCancel(std::function<void()> callback) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!done()) {
      on_cancel_ = std::move(callback);
      return;
    }
    if (finished_) return;
  }
  if (callback) callback();
}

void CallImpl::OnMessage(std::function<void(std::optional<Slice>)> callback) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (done()) return;
  on_message_ = std::move(callback);
  if (!loop_->InLoop()) {
    Schedule(&lock);
    return;
  }
  lock.unlock();
  DeliverMessages();
}

void CallImpl::OnSent(std::function<void()> callback) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!done()) on_sent_ = std::move(callback);
}

void CallImpl::Send(Message message) {
  if (done()) return;
  if (answer_encoding_ != Encoding::kIdentity && message.size() > 0) {  // here, not on the loop: it is work
    Result<std::string> packed = Compress(answer_encoding_, message);
    if (!packed.ok()) {
      Finish(packed.status(), {});
      return;
    }
    message = Message(std::move(packed).value());
  }
  if (message.size() > std::numeric_limits<std::uint32_t>::max()) {
    Finish({Code::kResourceExhausted, "the answer of " + std::to_string(message.size()) +
                                          " bytes is larger than gRPC can express (4294967295 bytes)"},
           {});
    return;
  }
  std::unique_lock<std::mutex> lock(mutex_);
  if (done()) return;
  unsent_.fetch_add(message.size() + kPrefixBytes, std::memory_order_relaxed);
  outbox_.messages.push_back(std::move(message));
  if (method_->unary) return;  // goes out together with Finish
  if (!loop_->InLoop()) {
    Schedule(&lock);
    return;
  }
  lock.unlock();
  Pump();
}

void CallImpl::Finish(Status status, Metadata trailers) {
  std::function<void()> on_cancel, on_sent;  // freed outside of the lock: they may own whatever they like
  std::function<void(std::optional<Slice>)> on_message;
  std::unique_lock<std::mutex> lock(mutex_);
  if (done()) return;
  finished_ = true;
  outbox_.finish = std::move(status);
  outbox_.trailers = std::move(trailers);
  on_cancel.swap(on_cancel_);
  on_message.swap(on_message_);
  on_sent.swap(on_sent_);
  done_.store(true, std::memory_order_release);
  if (!loop_->InLoop()) {
    Schedule(&lock);
    return;
  }
  lock.unlock();
  Pump();
}

void CallImpl::Schedule(std::unique_lock<std::mutex>* lock) {
  if (scheduled_) return;
  scheduled_ = true;
  scheduled_self_ = shared_from_this();
  const std::shared_ptr<EventLoop> loop = loop_;  // the call may be freed as soon as the lock is
  lock->unlock();
  loop->Post(this);
}

void CallImpl::RunInLoop() {
  std::shared_ptr<CallImpl> held;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    scheduled_ = false;
    held = std::move(scheduled_self_);
    scheduled_self_.reset();
  }
  Pump();
  DeliverMessages();
}

void CallImpl::Discard() {
  std::shared_ptr<CallImpl> held;
  std::lock_guard<std::mutex> lock(mutex_);
  scheduled_ = false;
  held.swap(scheduled_self_);
}

bool CallImpl::MarkEnded(std::function<void()>* on_cancel) {
  std::function<void()> on_sent;
  std::function<void(std::optional<Slice>)> on_message;
  Outbox outbox;
  std::lock_guard<std::mutex> lock(mutex_);
  if (done()) return false;
  done_.store(true, std::memory_order_release);
  on_cancel->swap(on_cancel_);
  on_message.swap(on_message_);
  on_sent.swap(on_sent_);
  std::swap(outbox, outbox_);
  return true;
}

}  // namespace mesh::rpc
