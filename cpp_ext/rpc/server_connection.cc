// Reading, writing and the life of a connection.
#include "rpc/server_connection.h"

#include <algorithm>
#include <cctype>
#include <string>
#include <utility>

#include "rpc/frame_size.h"
#include "rpc/session_memory.h"

namespace mesh::rpc {
namespace {

// Reads in one turn, before other connections of the loop get theirs.
constexpr int kReadsPerTurn = 8;
constexpr std::chrono::seconds kLingerTime{1};
// How the preface of HTTP/2 begins, and no request of HTTP/1.
constexpr std::string_view kHttp2Start = "PRI * HTTP/2.0\r\n";
// What a connection may always have unsent.
constexpr std::size_t kUnsentShare = 64UL * 1024;
// More streams cannot be reset, pinged or broken than these by accident.
constexpr double kResetBurst = 500, kResetsPerSecond = 100;
constexpr double kControlBurst = 500, kControlPerSecond = 50;
constexpr double kInvalidBurst = 100, kInvalidPerSecond = 10;

}  // namespace

Connection::Connection(ServerLoop* owner, int fd)
    : owner_(owner),
      loop_(owner->loop()),
      options_(owner->context().options),
      transport_(Transport::Accepted(fd, owner->context().tls)),
      peer_(std::make_shared<const std::string>(PeerAddress(fd))),
      watchdog_([this] { OnWatchdog(); }),
      opened_(loop_.now()),
      last_frame_(opened_),
      resets_(kResetBurst, kResetsPerSecond),
      control_frames_(kControlBurst, kControlPerSecond),
      invalid_frames_(kInvalidBurst, kInvalidPerSecond) {}

Connection::~Connection() {
  loop_.CancelAtEnd(&flush_task_);
  if (session_ != nullptr) nghttp2_session_del(session_);
}

void Connection::Start() {
  interest_ = EPOLLIN;
  Status added = loop_.Add(transport_->fd(), interest_, this);
  if (!added.ok()) {
    Close(added.message().c_str());
    return;
  }
  Watch();
  ContinueHandshake();
}

void Connection::OnReady(std::uint32_t events) {
  switch (state_) {
    case State::kHandshake: ContinueHandshake(); return;
    case State::kGreeting: ReadGreeting(); return;
    case State::kLingering:
      if (!transport_->DiscardInput()) Close("");
      return;
    case State::kClosed: return;
    case State::kOpen: break;
  }
  if ((events & EPOLLOUT) != 0) MarkDirty();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 || transport_->read_waits_for_write()) ReadInput();
}

void Connection::ContinueHandshake() {
  switch (transport_->Handshake()) {
    case Transport::HandshakeState::kFailed: Close(transport_->error().c_str()); return;
    case Transport::HandshakeState::kWantRead: UpdateInterest(false); return;
    case Transport::HandshakeState::kWantWrite: UpdateInterest(true); return;
    case Transport::HandshakeState::kDone: break;
  }
  if (owner_->context().http == nullptr) {
    Open();
    if (state_ == State::kOpen && transport_->encrypted()) ReadInput();  // TLS may have read more than its handshake
    return;
  }
  state_ = State::kGreeting;
  UpdateInterest(false);
  ReadGreeting();
}

void Connection::Open() {
  if (!OpenSession()) {
    Close("no memory for an HTTP/2 session");
    return;
  }
  state_ = State::kOpen;
  UpdateInterest(false);
  MarkDirty();
  if (std::exchange(draining_, false)) BeginDrain();
}

// A client of HTTP/2 says so before anything else, and does not wait for us. An HTTP/1 request begins with a letter.
void Connection::ReadGreeting() {
  std::vector<char>& buffer = owner_->read_buffer();
  const Transport::Io io = transport_->Read(buffer.data(), buffer.size());
  if (io.state == Transport::IoState::kBlocked) return UpdateInterest(false);
  if (io.state != Transport::IoState::kOk) return Close("the client closed the connection");
  owner_->counters().bytes_received.Add(io.bytes);
  greeting_.append(buffer.data(), io.bytes);
  const std::string_view received = greeting_;
  const std::string_view start = received.substr(0, kHttp2Start.size());
  if (start == kHttp2Start.substr(0, start.size())) {
    if (start.size() < kHttp2Start.size()) return;
  } else if (std::isalpha(static_cast<unsigned char>(start.front())) != 0) {
    return HandOver();
  }
  Open();
  if (state_ != State::kOpen) return;
  const std::string greeting = std::exchange(greeting_, {});
  if (Receive(greeting.data(), greeting.size())) ReadInput();
}

void Connection::HandOver() {
  state_ = State::kClosed;
  loop_.Remove(transport_->fd(), this);
  loop_.Disarm(&watchdog_);
  owner_->Replace(this, owner_->context().http(owner_, std::move(transport_), std::move(greeting_)));
}

bool Connection::OpenSession() {
  const ServerContext& context = owner_->context();
  const int made =
      nghttp2_session_server_new3(&session_, context.callbacks, this, context.session_options, SessionMemory());
  if (made != 0) return false;
  const nghttp2_settings_entry settings[] = {
    {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, options_.max_concurrent_streams},
    {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(ServerContext::kStreamWindow)},
    {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, kLargestFrame},
    {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, static_cast<std::uint32_t>(options_.max_metadata_bytes)},
#if NGHTTP2_VERSION_NUM >= 0x013000
    {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},  // saves the dependency tree
#endif
  };
  return nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings)) == 0 &&
         nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0,
                                               static_cast<std::int32_t>(ServerContext::kConnectionWindow)) == 0;
}

void Connection::ReadInput() {
  std::vector<char>& buffer = owner_->read_buffer();
  // Bytes that TLS holds already would not wake the loop, so they are taken even when the turn is over.
  for (int turn = 0; turn < kReadsPerTurn || transport_->has_buffered_input(); ++turn) {
    const Transport::Io io = transport_->Read(buffer.data(), buffer.size());
    if (io.state == Transport::IoState::kBlocked) break;
    if (io.state != Transport::IoState::kOk) {
      Close(io.state == Transport::IoState::kClosed ? "the client closed the connection" : transport_->error().c_str());
      return;
    }
    owner_->counters().bytes_received.Add(io.bytes);
    if (!Receive(buffer.data(), io.bytes)) return;
    if (io.bytes < buffer.size() || doomed_) break;
  }
  if (headers_began_ != EventLoop::TimePoint()) Watch();
  MarkDirty();
}

bool Connection::Receive(const char* data, std::size_t size) {
  const ssize_t used = nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(data), size);
  if (used >= 0) return true;
  owner_->counters().protocol_errors.Add(1);
  owner_->context().Log("connection broke the protocol", *peer_ + ": " + nghttp2_strerror(static_cast<int>(used)));
  if (used == NGHTTP2_ERR_BAD_CLIENT_MAGIC || !Fill()) {
    Close("protocol error");
    return false;
  }
  transport_->Write(&output_);  // the GOAWAY, if there is room for it
  Linger();
  return false;
}

void Connection::MarkDirty() {
  if (dirty_ || state_ == State::kClosed) return;
  dirty_ = true;
  loop_.RunAtEnd(&flush_task_);
}

bool Connection::Fill() {
  while (output_.size() < kFillBytes) {
    const std::uint8_t* data = nullptr;
    const ssize_t size = nghttp2_session_mem_send(session_, &data);
    if (size < 0) return false;
    if (size == 0) return true;
    output_.Append({reinterpret_cast<const char*>(data), static_cast<std::size_t>(size)});
  }
  return true;
}

void Connection::Flush() {
  dirty_ = false;
  if (state_ != State::kOpen) return;
  bool blocked = false;
  for (;;) {
    if (output_.empty()) {
      if (!Fill()) {
        Close("HTTP/2 session failed");
        return;
      }
      RunAllSent();
      RunHeldCalls();
      GrantConnectionWindow();
      if (output_.empty()) break;
    }
    const Transport::Io io = transport_->Write(&output_);
    owner_->counters().bytes_sent.Add(io.bytes);
    if (io.state == Transport::IoState::kFailed || io.state == Transport::IoState::kClosed) {
      Close(transport_->error().c_str());
      return;
    }
    blocked = io.state == Transport::IoState::kBlocked;
    if (blocked) break;
  }
  AfterFlush(blocked);
}

void Connection::RunAllSent() {
  if (all_sent_.empty()) return;
  std::vector<std::shared_ptr<CallImpl>> calls;
  calls.swap(all_sent_);
  for (const std::shared_ptr<CallImpl>& call : calls) call->RunOnSent();
}

void Connection::RunHeldCalls() {
  while (!held_.empty() && !clogged()) {
    const std::shared_ptr<CallImpl> call = std::move(held_.front());
    held_.pop_front();
    call->RunHeld();
  }
}

void Connection::GrantConnectionWindow() {
  if (unconsumed_ == 0 || clogged()) return;
  nghttp2_session_consume_connection(session_, std::exchange(unconsumed_, 0));
  MarkDirty();
}

bool Connection::clogged() const {
  const std::size_t pending = output_.size() + unsent_;
  if (pending > options_.max_pending_bytes) return true;
  return pending > kUnsentShare && owner_->context().unsent_bytes() > options_.max_unsent_bytes;
}

void Connection::Unhold(const CallImpl* call) {
  const auto found = std::find_if(held_.begin(), held_.end(), [call](const auto& held) { return held.get() == call; });
  if (found != held_.end()) held_.erase(found);
}

void Connection::CountUnsent() {
  const std::size_t pending = output_.size() + unsent_;
  if (pending == counted_unsent_) return;
  owner_->counters().bytes_unsent.Add(pending - counted_unsent_);  // modulo 2^64, where it fell
  counted_unsent_ = pending;
}

void Connection::AfterFlush(bool blocked) {
  CountUnsent();
  const bool drained = draining_ && drain_notice_ == EventLoop::TimePoint() && call_count_ == 0;
  // nghttp2 wants nothing to read after a GOAWAY for a broken rule, and after the last call when one side said GOAWAY.
  const bool finished = doomed_ || drained || nghttp2_session_want_read(session_) == 0;
  if (!blocked && finished && nghttp2_session_want_write(session_) == 0) {
    Linger();
    return;
  }
  if (doomed_ && linger_until_ == EventLoop::TimePoint()) {
    linger_until_ = loop_.now() + kLingerTime;
    Watch();
  }
  UpdateInterest(blocked);
}

void Connection::UpdateInterest(bool blocked) {
  // A client that does not take its answers is not read from either, so that it cannot ask for more.
  const bool paused = blocked && (clogged() || doomed_);
  std::uint32_t wanted = transport_->Interest(blocked);
  if (paused && (wanted & EPOLLOUT) != 0) wanted &= ~static_cast<std::uint32_t>(EPOLLIN);
  if (wanted == interest_) return;
  interest_ = wanted;
  loop_.Modify(transport_->fd(), interest_, this);
}

void Connection::Linger() {
  // close() with unread input makes the kernel send RST, which may destroy our last bytes on their way.
  state_ = State::kLingering;
  EndCalls();
  transport_->ShutdownWrite();
  linger_until_ = loop_.now() + kLingerTime;
  Watch();
  UpdateInterest(false);
  owner_->ConnectionQuiet();
}

void Connection::EndCalls() {
  held_.clear();
  all_sent_.clear();
  while (calls_ != nullptr) {
    const std::shared_ptr<CallImpl> call = calls_->self;
    Unlink(call.get());
    call->StreamClosed();
  }
}

void Connection::Close(const char* why) {
  if (state_ == State::kClosed) return;
  const bool handshake_failed = state_ == State::kHandshake;
  state_ = State::kClosed;
  if (handshake_failed) {
    owner_->counters().protocol_errors.Add(1);
    owner_->context().Log("handshake failed", *peer_ + ": " + why);
  }
  loop_.Remove(transport_->fd(), this);
  loop_.Disarm(&watchdog_);
  EndCalls();
  output_.Clear();
  CountUnsent();
  owner_->Bury(this);
}

void Connection::Abort() {
  if (state_ == State::kOpen) {
    for (CallImpl* call = calls_; call != nullptr;) {
      CallImpl* following = call->next;
      call->Abort({Code::kUnavailable, "the server stopped"});
      call = following;
    }
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                          NGHTTP2_NO_ERROR, nullptr, 0);
    if (Fill()) transport_->Write(&output_);
    transport_->ShutdownWrite();
    transport_->DiscardInput();
  }
  Close("the server stopped");
}

}  // namespace mesh::rpc
