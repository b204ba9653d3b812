#include "registry/keepalive.h"

#include <algorithm>
#include <utility>

namespace mesh::registry {
namespace {

constexpr std::chrono::milliseconds kReopenPause{200};

}  // namespace

Keepalive::Keepalive(EtcdClient& client, std::int64_t lease, int ttl_s, TimePoint granted_at,
                     std::function<void()> wake)
    : client_(client),
      lease_(lease),
      interval_(std::chrono::milliseconds(ttl_s * 1000 / 3)),
      wake_(std::move(wake)),
      ttl_(ttl_s * 1000),
      expires_(granted_at + ttl_),
      next_send_(granted_at + interval_),
      next_open_(granted_at) {}

Keepalive::~Keepalive() {
  if (stream_ != nullptr) stream_->Cancel();
}

Keepalive::TimePoint Keepalive::NextStep() const {
  const TimePoint due = stream_ == nullptr ? std::max(next_open_, next_send_) : next_send_;
  TimePoint next = std::min(due, expires_);
  if (!sent_.empty()) next = std::min(next, sent_.front() + interval_);
  return next;
}

Keepalive::State Keepalive::Step(TimePoint now) {
  if (!ReadMailbox(now)) return State::kGone;
  if (now >= expires_) return State::kExpired;
  if (stream_ != nullptr && !sent_.empty() && now >= sent_.front() + interval_) {
    CloseStream({Code::kDeadlineExceeded, "the lease's renewal was not answered in time"}, now);
  }
  if (now < next_send_) return State::kAlive;
  if (stream_ == nullptr && now >= next_open_) OpenStream(now);
  if (stream_ != nullptr) Send(now);
  return State::kAlive;
}

void Keepalive::Send(TimePoint now) {
  stream_->Send(rpc::Message(etcd::EncodeLeaseId(lease_)));
  sent_.push_back(now);
  next_send_ = now + interval_;
}

void Keepalive::OpenStream(TimePoint now) {
  auto mailbox = std::make_shared<Mailbox>();
  rpc::StreamCallbacks callbacks;
  callbacks.on_message = [mailbox, wake = wake_](const rpc::Slice& bytes) {
    Result<etcd::LeaseAnswer> answer = etcd::DecodeLeaseKeepAlive(bytes.view());
    if (!answer.ok()) return;  // an answer that cannot be read is none: the silence is noticed
    {
      const std::lock_guard<std::mutex> lock(mailbox->mutex);
      mailbox->answers.push_back(std::move(answer).value());
    }
    wake();
  };
  callbacks.on_done = [mailbox, wake = wake_](Status status, const rpc::Metadata& /*trailers*/) {
    {
      const std::lock_guard<std::mutex> lock(mailbox->mutex);
      mailbox->ended = true;
      mailbox->end = status.ok() ? Status(Code::kUnavailable, "etcd ended the renewal stream") : std::move(status);
    }
    wake();
  };
  Result<std::shared_ptr<rpc::ClientCall>> opened = client_.Stream(etcd::kLeaseKeepAlive, std::move(callbacks));
  sent_.clear();
  next_open_ = now + kReopenPause;
  if (!opened.ok()) return;
  stream_ = std::move(opened).value();
  mailbox_ = std::move(mailbox);
}

void Keepalive::CloseStream(const Status& reason, TimePoint now) {
  std::exchange(stream_, nullptr)->Cancel();
  mailbox_.reset();
  sent_.clear();
  client_.StreamFailed(reason);
  next_send_ = now;  // at once, through the next endpoint
  next_open_ = std::max(next_open_, now);
}

bool Keepalive::ReadMailbox(TimePoint now) {
  if (mailbox_ == nullptr) return true;
  std::deque<etcd::LeaseAnswer> answers;
  bool ended = false;
  Status end;
  {
    const std::lock_guard<std::mutex> lock(mailbox_->mutex);
    answers.swap(mailbox_->answers);
    ended = mailbox_->ended;
    end = mailbox_->end;
  }
  for (const etcd::LeaseAnswer& answer : answers) {
    if (answer.ttl_s <= 0) return false;
    ttl_ = std::chrono::milliseconds(answer.ttl_s * 1000);
    if (sent_.empty()) continue;
    expires_ = std::max(expires_, sent_.front() + ttl_);  // counted from the question: the answer may have been slow
    sent_.pop_front();
    ++renewals_;
  }
  if (ended) CloseStream(end, now);
  return true;
}

}  // namespace mesh::registry
