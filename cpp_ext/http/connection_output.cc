// From answers to the socket.
#include <array>
#include <charconv>

#include "http/connection.h"

namespace mesh::http {
namespace {

// What a connection may always have unsent.
constexpr std::size_t kUnsentShare = 64UL * 1024;

}  // namespace

void Connection::SendHead(const Response& response, bool streamed) {
  const bool was_empty = output_.empty();
  answering_ = true;
  keep_alive_ = keep_alive_ && !draining_ && !response.close && !client_closed_;
  Framing framing = Framing::kLength;
  if (streamed) {
    chunks_ = !is_http10_;
    framing = chunks_ ? Framing::kChunks : Framing::kClose;
    keep_alive_ = keep_alive_ && chunks_;
  }
  output_.Append(ResponseHead(response, framing, keep_alive_, is_http10_));
  if (!streamed) AppendMessage(response.body);
  if (was_empty) last_moved_ = loop_.now();
  MarkDirty();
}

void Connection::AppendMessage(const rpc::Message& message) {
  if (is_head_) return;
  for (const rpc::Slice& slice : message.slices()) output_.Append(slice, slice.view());
}

void Connection::SendPart(const rpc::Message& part) {
  if (output_.empty()) last_moved_ = loop_.now();
  if (chunks_ && !is_head_) {
    std::array<char, 20> size;
    const char* end = std::to_chars(size.data(), size.data() + size.size(), part.size(), 16).ptr;
    output_.Append({size.data(), static_cast<std::size_t>(end - size.data())});
    output_.Append("\r\n");
    AppendMessage(part);
    output_.Append("\r\n");
  } else {
    AppendMessage(part);
  }
  exchange_->SetUnsent(output_.size());
  MarkDirty();
}

void Connection::EndExchange() {
  if (chunks_ && !is_head_) output_.Append("0\r\n\r\n");
  if (!keep_alive_) closing_ = true;
  exchange_->Detach();
  exchange_ = nullptr;
  inflating_ = nullptr;
  owner_->counters().calls_open.Subtract(1);
  last_read_ = loop_.now();  // from now on it is idle
  MarkDirty();
}

void Connection::MarkDirty() {
  if (dirty_ || state_ == State::kClosed) return;
  dirty_ = true;
  loop_.RunAtEnd(&flush_task_);
}

void Connection::Flush() {
  dirty_ = false;
  if (state_ != State::kOpen) return;
  bool blocked = false;
  if (!output_.empty()) {
    const rpc::Transport::Io io = transport_->Write(&output_);
    owner_->counters().bytes_sent.Add(io.bytes);
    if (io.bytes > 0) last_moved_ = loop_.now();
    if (io.state == rpc::Transport::IoState::kFailed || io.state == rpc::Transport::IoState::kClosed) return Close();
    blocked = io.state == rpc::Transport::IoState::kBlocked;
  }
  AfterFlush(blocked);
}

void Connection::AfterFlush(bool blocked) {
  CountUnsent();
  if (exchange_ != nullptr) exchange_->SetUnsent(output_.size());
  if (output_.empty() && (closing_ || client_closed_ || (draining_ && !busy()))) {
    if (exchange_ == nullptr) return Linger();
  }
  // Goes on in the next turn, so that other connections get theirs.
  if (!held_.empty() && exchange_ == nullptr && !closing_ && !clogged() && !next_turn_.armed()) {
    loop_.Arm(&next_turn_, loop_.now() + std::chrono::nanoseconds(1));
  }
  UpdateInterest(blocked);
}

void Connection::CountUnsent() {
  if (output_.size() == counted_unsent_) return;
  owner_->counters().bytes_unsent.Add(output_.size() - counted_unsent_);  // modulo 2^64, where it fell
  counted_unsent_ = output_.size();
}

bool Connection::clogged() const {
  if (output_.size() > options_.max_pending_bytes) return true;
  return output_.size() > kUnsentShare && owner_->context().unsent_bytes() > options_.max_unsent_bytes;
}

void Connection::UpdateInterest(bool blocked) {
  std::uint32_t wanted = transport_->Interest(blocked);
  const bool tls_must_read = blocked && (wanted & EPOLLOUT) == 0;
  if (!wants_input() && !tls_must_read) {
    // The end of the client's side is noticed all the same.
    wanted = (wanted & ~static_cast<std::uint32_t>(EPOLLIN)) |
             (client_closed_ ? 0U : static_cast<std::uint32_t>(EPOLLRDHUP));
  }
  if (wanted == interest_) return;
  interest_ = wanted;
  loop_.Modify(transport_->fd(), interest_, this);
}

}  // namespace mesh::http
