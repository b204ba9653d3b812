// How a puller runs what it has pulled.
#include <algorithm>
#include <utility>

#include "broker/puller.h"
#include "common/log.h"

namespace mesh::broker {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::size_t kUsualResultBytes = 64UL << 20;  // where the broker does not say
constexpr double kFullPatience_s = 10.0;               // an item waits here for room, then it may go elsewhere
constexpr milliseconds kFullLimit{1000};
constexpr milliseconds kQueueFullPause{200};  // until more is asked for, when a model's own queue had no place

Outcome Returned(std::string reason, bool begun) { return Failed({Code::kUnavailable, std::move(reason)}, begun); }

// What is wrong with what the broker sent; a replica in C++ speaks KServe only.
Status CheckBody(Body body) {
  if (body == Body::kInfer) return {};
  const std::string is = body == Body::kHttp ? "OpenAI's HTTP protocol (a JSON body)" : "empty";
  return {Code::kInvalidArgument, "this deployment is asked by KServe v2 (inputs), and the request is " + is};
}

std::optional<steady_clock::time_point> DeadlineOf(double left_s) {
  constexpr double kFar_s = 1e8;
  if (!(left_s > 0)) return std::nullopt;
  const std::chrono::duration<double> left(std::min(left_s, kFar_s));
  return steady_clock::now() + std::chrono::duration_cast<steady_clock::duration>(left);
}

}  // namespace

void Puller::Take(Work work, const Link& link) {
  if (held_.Find(work.key) != nullptr) return;
  for (const std::shared_ptr<HeldItem>& earlier : held_.EarlierAttempts(work.key)) {
    StopItem(earlier->key, "a later attempt has come");
  }
  const auto held = std::make_shared<HeldItem>(work.key, Now(), work.bytes);
  if (held_.empty()) on_idle_(false);
  held_.Add(held);
  if (draining_) return Finish(held, Returned("the replica drains", false));
  credits_->Started(held->arrived);
  Running& running = *running_.emplace(held->key, std::make_unique<Running>(*this, held)).first->second;
  if (const Status wrong = CheckBody(work.body); !wrong.ok()) return RunEnded(held, Failed(wrong, false));
  running.call = NewCall(held, &work, link);
  if (const auto deadline = running.call->deadline()) loop_->Arm(&running.deadline, *deadline);
  Begin(running);
}

std::shared_ptr<PulledCall> Puller::NewCall(const std::shared_ptr<HeldItem>& held, Work* work, const Link& link) {
  Job job;
  job.request = std::move(work->infer);
  job.metadata = std::move(work->metadata);
  job.deadline = DeadlineOf(work->left_s);
  job.wants_parts = work->wants_parts;
  job.max_result_bytes = link.max_result_bytes() > 0 ? link.max_result_bytes() : kUsualResultBytes;
  // The loop, not the puller: what runs may end when there is no puller any more.
  const auto post = [loop = loop_, weak = weak_from_this()](auto tell) {
    loop->Post([weak, tell = std::move(tell)] {
      if (const auto puller = weak.lock(); puller != nullptr) tell(*puller);
    });
  };
  PulledCall::Told told;
  told.part = [post, held](std::string body) {
    post([held, body = std::move(body)](Puller& puller) { puller.PartMade(held, body); });
  };
  told.ended = [post, held](Outcome outcome) {
    post([held, outcome = std::move(outcome)](Puller& puller) { puller.RunEnded(held, outcome); });
  };
  return std::make_shared<PulledCall>(std::move(job), std::move(told));
}

// A replica that others have filled gets room again; only then, or after a while, the item goes back.
void Puller::Begin(Running& running) {
  const Status refused = running.call->Start(serve_);
  running.begun = refused.ok();
  if (!running.begun) WaitForRoom(running, refused);
}

void Puller::WaitForRoom(Running& running, const Status& refused) {
  const bool full = refused.code() == Code::kResourceExhausted;
  if (!full || draining_ || Now() - running.held->arrived > kFullPatience_s) {
    return EndLater(running, refused);
  }
  const milliseconds pause = running.pause;
  running.pause = std::min(2 * pause, kFullLimit);
  loop_->Arm(&running.room, steady_clock::now() + pause);
  BeFull(2 * pause);
}

void Puller::DeadlinePassed(Running& running) {
  if (running.begun) return running.call->Cancel();
  EndLater(running, {Code::kDeadlineExceeded, "the item's deadline passed before there was room"});
}

void Puller::EndLater(const Running& running, Status status) {
  loop_->Post([weak = weak_from_this(), held = running.held, outcome = Failed(std::move(status), false)] {
    if (const auto puller = weak.lock(); puller != nullptr) puller->RunEnded(held, outcome);
  });
}

void Puller::PartMade(const std::shared_ptr<HeldItem>& held, std::string body) {
  if (!held->runs() || held->unwanted) return;
  held->AddPart(std::move(body));
  NoteNews(held);
  WakeHome(*held);
}

void Puller::RunEnded(const std::shared_ptr<HeldItem>& held, const Outcome& outcome) {
  const auto found = running_.find(held->key);
  if (found == running_.end() || found->second->held != held) return;  // it was given up before
  const std::unique_ptr<Running> running = std::move(found->second);
  running_.erase(found);
  if (running->call != nullptr) running->call->Cancel();  // of one that ended here before it did there
  loop_->Disarm(&running->room);
  const double now = Now();
  credits_->Ended(now, outcome.queue_full ? 0.0 : now - held->arrived);  // what did not run tells nothing
  if (outcome.queue_full) BeFull(kQueueFullPause);
  Finish(held, outcome);
}

void Puller::Finish(const std::shared_ptr<HeldItem>& held, const Outcome& outcome) {
  if (held->unwanted) {
    instruments_.stopped.Add();
    return Remove(*held);
  }
  switch (outcome.kind) {
    case Outcome::Kind::kReturned: instruments_.returned.Add(); break;
    case Outcome::Kind::kFailure: instruments_.failures.Add(); break;
    default: instruments_.results.Add();
  }
  held_.Finish(*held, EncodeDone(held->key, outcome), Now());
  NoteNews(held);
  WakeHome(*held);
  Allot();
}

void Puller::StopItem(const ItemKey& key, const std::string& reason) {
  const std::shared_ptr<HeldItem> held = held_.Find(key);
  if (held == nullptr || held->unwanted) return;
  log::Info("item stopped", {{"item", key.item}, {"attempt", key.attempt}, {"reason", reason}});
  held->unwanted = true;
  const auto running = running_.find(key);
  if (running == running_.end()) return Remove(*held);
  if (running->second->begun) return running->second->call->Cancel();  // removed when it has ended
  RunEnded(held, {});
}

void Puller::StopRunning() {
  Drain();
  while (!running_.empty()) RunEnded(running_.begin()->second->held, Returned("the replica ended the run", true));
}

void Puller::Remove(const HeldItem& held) {
  held_.Remove(held);
  Allot();
  if (held_.empty()) on_idle_(true);
}

}  // namespace mesh::broker
