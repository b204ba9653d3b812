// Compressed messages of a call: decompressed in the order of their arrival, in steps between which the loop serves its
// other connections. And the count of what waits in a call.
#include <utility>

#include "rpc/inflate_turns.h"
#include "rpc/server_call.h"
#include "rpc/server_connection.h"

namespace mesh::rpc {
namespace {

// Of a message that waits, besides its bytes.
constexpr std::size_t kMessageOverhead = 128;

}  // namespace

std::size_t InflateTurns::left() {
  if (iteration_ != loop_->now()) {
    iteration_ = loop_->now();
    spent_ = 0;
  }
  return spent_ < kPerIteration ? kPerIteration - spent_ : 0;
}

void InflateTurns::Wait(std::shared_ptr<InflateWork> work) {
  waiting_.push_back(std::move(work));
  if (!timer_.armed()) ArmForNext();
}

void InflateTurns::ArmForNext() {
  // Due at once, but not in this iteration.
  loop_->Arm(&timer_, loop_->now() + std::chrono::nanoseconds(1));
}

void InflateTurns::RunWaiting() {
  for (std::size_t count = waiting_.size(); count > 0 && left() > 0; --count) {
    const std::shared_ptr<InflateWork> work = std::move(waiting_.front());
    waiting_.pop_front();
    work->InflateInTurn();
  }
  if (!waiting_.empty() && !timer_.armed()) ArmForNext();
}

// Of what is counted by the call; large messages are counted by themselves.
std::size_t CallImpl::Weight(const Slice& message) {
  return kMessageOverhead + (message.size() > ReceiveBudget::kUnbudgeted ? 0 : message.size());
}

bool CallImpl::CountWaiting() {
  ReceiveBudget& budget = *connection_->owner().context().budget;
  if (waiting_bytes_ > counted_bytes_) {
    if (!budget.Take(waiting_bytes_ - counted_bytes_)) {
      Abort(budget.Full("the messages that wait in this call"));
      return false;
    }
  } else {
    budget.Give(counted_bytes_ - waiting_bytes_);
  }
  counted_bytes_ = waiting_bytes_;
  return true;
}

void CallImpl::DropWaiting() {
  inbox_.clear();
  reader_.Clear();
  inflow_ = nullptr;
  waiting_bytes_ = 0;
  if (counted_bytes_ > 0) static_cast<void>(CountWaiting());  // gives back: cannot fail
}

void CallImpl::Enqueue(Slice bytes, bool packed) {
  const bool first = inflow_ == nullptr;
  if (first) inflow_ = std::make_unique<Inflow>();
  waiting_bytes_ += Weight(bytes);
  inflow_->waiting.push_back({std::move(bytes), packed});
  if (first) Inflate();
}

void CallImpl::InflateInTurn() {
  waits_for_turn_ = false;
  Inflate();
}

void CallImpl::Inflate() {
  if (inflating_ || waits_for_turn_ || connection_ == nullptr || inflow_ == nullptr) return;
  const std::shared_ptr<CallImpl> held = shared_from_this();
  inflating_ = true;
  // A handler that is behind gets its messages decompressed when it asks for them.
  while (inflow_ != nullptr && (method_->unary || inbox_.empty()) && InflateNext()) {
  }
  inflating_ = false;
  if (connection_ == nullptr || finishing_) return;
  if (counted_bytes_ != waiting_bytes_ && !CountWaiting()) return;
  if (inflow_ != nullptr) return;
  GrantWithheld();
  if (end_received_) AllReceived();
}

// False when it must go on later, or never.
bool CallImpl::InflateNext() {
  InflateTurns& turns = connection_->owner().inflate_turns();
  if (inflow_->running == nullptr) {
    if (inflow_->waiting.empty()) {
      inflow_ = nullptr;
      return false;
    }
    const Inflow::Arrived next = std::move(inflow_->waiting.front());
    inflow_->waiting.pop_front();
    waiting_bytes_ -= Weight(next.bytes);
    if (!next.packed) {
      MessageReceived(next.bytes);
      return true;
    }
    const ServerContext& context = connection_->owner().context();
    inflow_->running = std::make_unique<Decompression>(reader_.encoding(), next.bytes,
                                                       context.options.max_decompressed_bytes, context.budget.get());
  }
  const std::size_t allowed = turns.left();
  if (allowed == 0) return InflateLater();
  Result<bool> done = inflow_->running->Run(allowed);
  turns.Spend(inflow_->running->work_done());
  if (!done.ok()) {
    Abort(done.status());
    return false;
  }
  if (!done.value()) return InflateLater();
  Slice message = inflow_->running->Take();
  inflow_->running = nullptr;
  MessageReceived(std::move(message));
  return true;
}

bool CallImpl::InflateLater() {
  waits_for_turn_ = true;
  connection_->owner().inflate_turns().Wait(shared_from_this());
  return false;
}

}  // namespace mesh::rpc
