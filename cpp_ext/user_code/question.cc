#include "user_code/question.h"

#include <algorithm>
#include <utility>

#include "user_code/exchange.h"

namespace mesh::user {

Asker::Asker(const MeshQuestion& question, Threads& threads, std::shared_ptr<rpc::EventLoop> loop,
             std::function<void()> over)
    : question_(question), threads_(threads), loop_(std::move(loop)), over_(std::move(over)) {
  if (question.parent != nullptr) {
    parent_ = question.parent->call();
    parents_deadline_ = question.parent->facts().deadline;
  }
  deadline_ = parents_deadline_;
  if (question.timeout_ns > 0) {
    const auto own = steady_clock::now() + std::chrono::nanoseconds(question.timeout_ns);
    deadline_ = deadline_ ? std::min(*deadline_, own) : own;
  }
}

// The timer belongs to the loop.
Asker::~Asker() {
  if (timer_ == nullptr) return;
  loop_->Post([timer = std::shared_ptr<rpc::Timer>(std::move(timer_))]() mutable { timer.reset(); });
}

void Asker::WhenOver(std::function<void()> cancel) {
  cancel_ = std::move(cancel);
  ArmTimer();
  if (parent_ == nullptr) return;
  parents_number_ = parent_->WhenCancelled([weak = weak_from_this()] {
    if (const std::shared_ptr<Asker> self = weak.lock()) self->cancel_();
  });
}

// The request's own deadline cancels the request, and so its questions.
void Asker::ArmTimer() {
  if (!deadline_ || deadline_ == parents_deadline_) return;
  loop_->Post([weak = weak_from_this()] {
    const std::shared_ptr<Asker> self = weak.lock();
    if (self == nullptr || self->told_.load()) return;
    self->timer_ = std::make_unique<rpc::Timer>([weak] {
      if (const std::shared_ptr<Asker> late = weak.lock()) late->cancel_();
    });
    self->loop_->Arm(self->timer_.get(), *self->deadline_);
  });
}

void Asker::Tell(Status status, std::unique_ptr<MeshReply> reply) {
  if (told_.exchange(true)) return;
  if (parent_ != nullptr) parent_->Forget(parents_number_);
  if (!status.ok()) status = WhyOver(status);
  auto deliver = [question = question_, over = over_, status = std::move(status), reply = reply.release()] {
    question.done(question.self, static_cast<std::int32_t>(status.code()), status.message().data(),
                  status.message().size(), reply);
    over();
  };
  if (question_.quick != 0) return deliver();
  threads_.Post(std::move(deliver));
}

Status Asker::WhyOver(const Status& status) const {
  const bool ended = status.code() == Code::kCancelled || status.code() == Code::kDeadlineExceeded;
  if (!ended || !deadline_ || steady_clock::now() < *deadline_) return status;
  const std::string whose = question_.deployment == nullptr ? "model " + std::string(question_.model)
                                                            : "deployment " + std::string(question_.deployment);
  return {Code::kDeadlineExceeded, whose + " did not answer in time"};
}

}  // namespace mesh::user
