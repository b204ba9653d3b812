#include "broker/pulled_call.h"

#include <algorithm>
#include <utility>

#include "routing/verdict.h"

namespace mesh::broker {
namespace {

using std::chrono::steady_clock;

// Smaller answers are copied: they share their memory with more than themselves.
constexpr std::size_t kCopiedBytes = 16UL * 1024;
// So that an error of a stream ends it and keeps its code.
constexpr const char* kErrorCodes = "triton_grpc_error";

Status TooLarge(std::size_t limit) {
  return {Code::kFailedPrecondition,
          "the result has more than " + std::to_string(limit) +
              " bytes, which is the most that the broker keeps (`max_result_bytes`); ask for "
              "less, or call the deployment directly"};
}

// The queue of an ensemble's later step may refuse what its first steps have run.
bool RefusedByQueue(const Status& status, bool unanswered) {
  return unanswered && status.code() == Code::kUnavailable && routing::IsQueueFull(status.message()) &&
         status.message().find("in ensemble") == std::string::npos;
}

}  // namespace

Outcome Failed(Status status, bool begun) {
  Outcome outcome;
  const bool again = status.code() == Code::kUnavailable || status.code() == Code::kResourceExhausted;
  outcome.kind = again ? Outcome::Kind::kReturned : Outcome::Kind::kFailure;
  outcome.untouched = again && !begun;
  outcome.failure = std::move(status);
  return outcome;
}

PulledCall::PulledCall(Job job, Told told) : job_(std::move(job)), told_(std::move(told)) {
  rpc::Metadata& metadata = job_.metadata;
  metadata.erase(
      std::remove_if(metadata.begin(), metadata.end(), [](const auto& entry) { return entry.first == kErrorCodes; }),
      metadata.end());
  metadata.emplace_back(kErrorCodes, "true");
}

Status PulledCall::Start(const Serve& serve) {
  Status refused = serve(shared_from_this(), job_.request);
  if (refused.ok()) job_.request = {};  // whoever serves it keeps it for as long as it is read
  return refused;
}

void PulledCall::Cancel() {
  std::function<void()> callback;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (std::exchange(cancelled_, true)) return;
    callback = std::move(on_cancel_);
  }
  if (callback) callback();
}

bool PulledCall::done() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return finished_ || cancelled_;
}

void PulledCall::OnCancel(std::function<void()> callback) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    if (!cancelled_) {
      on_cancel_ = std::move(callback);
      return;
    }
  }
  callback();
}

void PulledCall::OnMessage(std::function<void(std::optional<rpc::Slice>)> callback) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    streamed_ = true;
  }
  callback(job_.request);
  callback(std::nullopt);
}

void PulledCall::Send(rpc::Message message) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (finished_ || cancelled_) return;
  const Status taken = Take(std::move(message));
  if (taken.ok()) return;
  finished_ = true;
  told_.ended(Failed(taken, true));  // and whoever is told cancels what still runs
}

Status PulledCall::Take(rpc::Message message) {
  if (streamed_) {
    const Result<rpc::Slice> answer = StreamedAnswer(rpc::Slice::Own(message.Flatten()));
    if (!answer.ok()) return {Code::kInternal, answer.status().message()};
    if (answer.value().empty()) return {};
    message = {};
    message.Append(answer.value());
  } else if (message.size() <= kCopiedBytes) {
    message = rpc::Message(message.Flatten());
  }
  answer_bytes_ += message.size();
  if (answer_bytes_ > job_.max_result_bytes) return TooLarge(job_.max_result_bytes);
  if (job_.wants_parts) told_.part(message.Flatten());
  answers_.push_back(std::move(message));
  return {};
}

void PulledCall::Finish(Status status, rpc::Metadata /*trailers*/) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (std::exchange(finished_, true)) return;
  on_cancel_ = nullptr;
  told_.ended(OutcomeOf(status));
}

Outcome PulledCall::OutcomeOf(const Status& status) {
  if (!status.ok() || cancelled_) {  // of one that was cancelled, answers were dropped
    const bool cancelled = status.ok() || status.code() == Code::kCancelled;
    const bool late = cancelled && job_.deadline && steady_clock::now() >= *job_.deadline;
    if (late) return Failed({Code::kDeadlineExceeded, "the item's deadline passed while it ran"}, true);
    if (RefusedByQueue(status, answers_.empty())) {
      Outcome refused = Failed(status, false);
      refused.queue_full = true;
      return refused;
    }
    return Failed(status.ok() ? Status(Code::kCancelled, "the run was cancelled") : status, true);
  }
  if (!streamed_ && answers_.size() != 1) {
    return Failed({Code::kInternal, "the model ended the request without an answer"}, true);
  }
  Outcome outcome;
  outcome.kind = streamed_ ? Outcome::Kind::kInfers : Outcome::Kind::kInfer;
  outcome.answers = std::move(answers_);
  return outcome;
}

}  // namespace mesh::broker
