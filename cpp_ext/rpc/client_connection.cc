#include "rpc/client_connection.h"

#include <algorithm>
#include <array>
#include <utility>

#include "rpc/frame_size.h"
#include "rpc/wire.h"

namespace mesh::rpc {
namespace {

constexpr std::size_t kReadBytes = 256UL * 1024;
constexpr int kReadsPerEvent = 16;
constexpr std::int32_t kStreamWindow = 8 << 20;
constexpr std::int32_t kConnectionWindow = 32 << 20;
constexpr std::uint32_t kMaxHeaderList = 64 * 1024;
constexpr char kUserAgent[] = "grpc-c++-mesh/0.1";

Status Lost(const std::string& reason) { return {Code::kUnavailable, reason}; }

}  // namespace

ClientConnection::ClientConnection(std::shared_ptr<EventLoop> loop, std::unique_ptr<Transport> transport,
                                   Settings settings, ConnectionOwner* owner)
    : loop_(std::move(loop)),
      settings_(std::move(settings)),
      owner_(owner),
      transport_(std::move(transport)),
      keepalive_timer_([this] { OnKeepaliveTimer(); }),
      last_received_(loop_->now()) {}

ClientConnection::~ClientConnection() {
  if (transport_ != nullptr) loop_->Remove(transport_->fd(), this);
}

Status ClientConnection::Open() {
  watched_ = EPOLLOUT;
  Status added = loop_->Add(transport_->fd(), watched_, this);
  if (!added.ok()) transport_.reset();
  return added;
}

void ClientConnection::Watch(std::uint32_t events) {
  if (events == watched_) return;
  watched_ = events;
  loop_->Modify(transport_->fd(), events, this);
}

void ClientConnection::OnReady(std::uint32_t events) {
  const std::shared_ptr<ClientConnection> self = shared_from_this();
  if (!handshaken_) {
    ContinueHandshake();
    return;
  }
  if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0 || transport_->read_waits_for_write()) ReadAvailable();
  if (state_ != State::kClosed && (events & EPOLLOUT) != 0) ScheduleFlush();
}

void ClientConnection::ContinueHandshake() {
  switch (transport_->Handshake()) {
    case Transport::HandshakeState::kWantRead: Watch(EPOLLIN); return;
    case Transport::HandshakeState::kWantWrite: Watch(EPOLLOUT); return;
    case Transport::HandshakeState::kFailed: Lose(Lost(transport_->error())); return;
    case Transport::HandshakeState::kDone: break;
  }
  handshaken_ = true;
  Watch(EPOLLIN);
  const Status started = StartSession();
  if (!started.ok()) {
    Lose(started);
    return;
  }
  ScheduleFlush();
  if (transport_->has_buffered_input()) ReadAvailable();
}

Status ClientConnection::StartSession() {
  nghttp2_session* session = nullptr;
  if (nghttp2_session_client_new2(&session, ClientSessionCallbacks(), this, ClientSessionOptions()) != 0) {
    return {Code::kResourceExhausted, "no memory for an HTTP/2 session"};
  }
  session_.reset(session);
  const std::array<nghttp2_settings_entry, 4> entries = {
      {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
       {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(kStreamWindow)},
       {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, kLargestFrame},
       {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kMaxHeaderList}}};
  if (nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, entries.data(), entries.size()) != 0 ||
      nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, kConnectionWindow) != 0) {
    return {Code::kInternal, "the HTTP/2 session cannot be set up"};
  }
  return {};
}

void ClientConnection::ReadAvailable() {
  // Shared by all connections of a thread: what was read is consumed before the next one reads.
  static thread_local std::array<char, kReadBytes> buffer;
  for (int round = 0; round < kReadsPerEvent || transport_->has_buffered_input(); ++round) {
    const Transport::Io io = transport_->Read(buffer.data(), buffer.size());
    if (io.state == Transport::IoState::kBlocked) break;
    if (io.state == Transport::IoState::kClosed) return Lose(Lost("the server closed the connection"));
    if (io.state == Transport::IoState::kFailed) return Lose(Lost("connection lost: " + transport_->error()));
    NoteAlive();
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(buffer.data());
    const ssize_t used = nghttp2_session_mem_recv(session_.get(), bytes, io.bytes);
    if (state_ == State::kClosed) return;
    if (used < 0) {
      return Lose(
          Lost(std::string("the server broke the HTTP/2 protocol: ") + nghttp2_strerror(static_cast<int>(used))));
    }
    if (io.bytes < buffer.size() && !transport_->has_buffered_input()) break;
  }
  ScheduleFlush();
}

void ClientConnection::ScheduleFlush() {
  if (flush_scheduled_ || !handshaken_ || state_ == State::kClosed) return;
  flush_scheduled_ = true;
  loop_->RunAtEnd(this);
}

void ClientConnection::RunInLoop() {
  const std::shared_ptr<ClientConnection> self = shared_from_this();
  flush_scheduled_ = false;
  if (state_ != State::kClosed) Flush();
}

bool ClientConnection::WriteQueue() {
  while (!output_.empty()) {
    const Transport::Io io = transport_->Write(&output_);
    if (io.state == Transport::IoState::kOk) continue;
    if (io.state == Transport::IoState::kBlocked) {
      Watch(transport_->Interest(true));
    } else {
      Lose(Lost(io.state == Transport::IoState::kClosed ? "the server closed the connection"
                                                        : "connection lost: " + transport_->error()));
    }
    return false;
  }
  return true;
}

void ClientConnection::Flush() {
  while (WriteQueue()) {
    const int sent = nghttp2_session_send(session_.get());
    if (state_ == State::kClosed) return;
    if (sent != 0) return Lose(Lost(std::string("the HTTP/2 session failed: ") + nghttp2_strerror(sent)));
    if (!output_.empty()) continue;
    Watch(transport_->Interest(false));
    CloseIfDrained();
    return;
  }
}

Status ClientConnection::Start(const std::shared_ptr<CallState>& call) {
  HeaderList headers;
  headers.AddStatic(":method", "POST");
  headers.AddStatic(":scheme", transport_->encrypted() ? "https" : "http");
  headers.Add(":path", call->path());
  headers.Add(":authority", settings_.authority);
  headers.AddStatic("te", "trailers");
  headers.AddStatic("content-type", "application/grpc");
  headers.AddStatic("user-agent", kUserAgent);
  headers.AddStatic("grpc-accept-encoding", kAcceptedEncodings);
  std::string timeout;
  if (call->deadline()) {
    timeout = FormatTimeout(*call->deadline() - std::chrono::steady_clock::now());
    headers.Add("grpc-timeout", timeout);
  }
  headers.Add(call->metadata());
  nghttp2_data_provider body{};
  body.source.ptr = this;
  body.read_callback = [](nghttp2_session*, std::int32_t stream, std::uint8_t*, std::size_t length,
                          std::uint32_t* flags, nghttp2_data_source* source, void*) -> ssize_t {
    const auto carried = static_cast<ClientConnection*>(source->ptr)->Find(stream);
    if (carried == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    const std::size_t bytes = std::min(length, carried->outgoing().size());
    const bool last = carried->half_closed() && bytes == carried->outgoing().size();
    if (bytes == 0 && !last) return NGHTTP2_ERR_DEFERRED;
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (last) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(bytes);
  };
  const std::int32_t stream =
      nghttp2_submit_request(session_.get(), nullptr, headers.data(), headers.size(), &body, nullptr);
  if (stream < 0) return NotProcessed(std::string("the call cannot be sent: ") + nghttp2_strerror(stream));
  used_ = true;
  calls_.emplace(stream, call);
  call->Attach(this, stream);
  ArmKeepalive();
  ScheduleFlush();
  return {};
}

void ClientConnection::Retire() {
  if (state_ != State::kReady) return;
  state_ = State::kDraining;
  ScheduleFlush();
}

void ClientConnection::Resume(const CallState& call) {
  if (state_ == State::kClosed) return;
  nghttp2_session_resume_data(session_.get(), call.stream());  // fails when nothing was deferred: it flows already
  ScheduleFlush();
}

void ClientConnection::Grant(CallState* call, std::size_t received) {
  const std::size_t granted = call->TakeGrant(received);
  if (granted == 0 || state_ == State::kClosed) return;
  nghttp2_session_consume_stream(session_.get(), call->stream(), granted);
  ScheduleFlush();
}

void ClientConnection::Abort(const std::shared_ptr<CallState>& call, Status status) {
  if (state_ != State::kClosed && calls_.erase(call->stream()) > 0) {
    nghttp2_submit_rst_stream(session_.get(), NGHTTP2_FLAG_NONE, call->stream(), NGHTTP2_CANCEL);
    ScheduleFlush();
  }
  call->Finish(std::move(status));
}

void ClientConnection::Lose(const Status& reason) {
  if (state_ == State::kClosed) return;
  ConnectionOwner* owner = owner_;
  Shut(reason);
  if (owner != nullptr) owner->OnConnectionClosed(this, reason);
}

void ClientConnection::Shut(const Status& reason) {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  owner_ = nullptr;
  loop_->Disarm(&keepalive_timer_);
  if (flush_scheduled_) loop_->CancelAtEnd(this);
  flush_scheduled_ = false;
  if (transport_ != nullptr) loop_->Remove(transport_->fd(), this);
  // The session may be in one of its callbacks right now, so it and the socket are freed when the loop comes round.
  loop_->Post([self = shared_from_this(), transport = std::shared_ptr<Transport>(std::move(transport_))] {});
  EndCalls(reason);
}

void ClientConnection::EndCalls(const Status& reason) {
  auto calls = std::exchange(calls_, {});
  for (auto& [stream, call] : calls) call->Finish(reason);
}

std::shared_ptr<CallState> ClientConnection::Find(std::int32_t stream) const {
  const auto found = calls_.find(stream);
  return found == calls_.end() ? nullptr : found->second;
}

void ClientConnection::ArmKeepalive() {
  if (keepalive_timer_.armed()) return;
  ping_unanswered_ = false;
  loop_->Arm(&keepalive_timer_, loop_->now() + settings_.keepalive_interval);
}

void ClientConnection::NoteAlive() {
  last_received_ = loop_->now();
  if (!ping_unanswered_) return;
  ping_unanswered_ = false;
  loop_->Arm(&keepalive_timer_, last_received_ + settings_.keepalive_interval);
}

void ClientConnection::OnKeepaliveTimer() {
  const std::shared_ptr<ClientConnection> self = shared_from_this();
  if (ping_unanswered_) {
    return Lose(Lost("the server did not answer a keepalive ping within " +
                     std::to_string(settings_.keepalive_timeout.count()) + " ms"));
  }
  if (calls_.empty()) return;  // servers count pings without calls as abuse; the next call arms it again
  const auto silent_until = last_received_ + settings_.keepalive_interval;
  if (silent_until > loop_->now()) {
    loop_->Arm(&keepalive_timer_, silent_until);
    return;
  }
  nghttp2_submit_ping(session_.get(), NGHTTP2_FLAG_NONE, nullptr);
  ping_unanswered_ = true;
  loop_->Arm(&keepalive_timer_, loop_->now() + settings_.keepalive_timeout);
  ScheduleFlush();
}

}  // namespace mesh::rpc
