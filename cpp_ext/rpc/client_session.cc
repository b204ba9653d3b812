// What a client's connection does with the frames that its server sends.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rpc/client_connection.h"
#include "rpc/frame_size.h"
#include "rpc/wire.h"

namespace mesh::rpc {
namespace {

constexpr std::size_t kMaxQueued = 1 << 20;  // bytes taken from the session before the socket must take some

std::string_view View(const std::uint8_t* bytes, std::size_t size) {
  return {reinterpret_cast<const char*>(bytes), size};
}

}  // namespace

struct ClientCallbacks {
  static ClientConnection* Of(void* user) { return static_cast<ClientConnection*>(user); }

  static ssize_t Send(nghttp2_session* /*session*/, const std::uint8_t* data, std::size_t length, int /*flags*/,
                      void* user) {
    ClientConnection* connection = Of(user);
    if (connection->output_.size() >= kMaxQueued) return NGHTTP2_ERR_WOULDBLOCK;
    connection->output_.Append(View(data, length));
    return static_cast<ssize_t>(length);
  }

  static int SendData(nghttp2_session* /*session*/, nghttp2_frame* frame, const std::uint8_t* head, std::size_t length,
                      nghttp2_data_source* /*source*/, void* user) {
    ClientConnection* connection = Of(user);
    const auto call = connection->Find(frame->hd.stream_id);
    if (call == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // aborted between the two callbacks
    if (connection->output_.size() >= kMaxQueued) return NGHTTP2_ERR_WOULDBLOCK;
    constexpr std::size_t kFrameHead = 9;
    connection->output_.Append(View(head, kFrameHead));
    call->MoveOut(&connection->output_, length);
    return 0;
  }

  static int BeginHeaders(nghttp2_session* /*session*/, const nghttp2_frame* frame, void* user) {
    if (const auto call = Of(user)->Find(frame->hd.stream_id)) call->BeginHeaders();
    return 0;
  }

  static int Header(nghttp2_session* /*session*/, const nghttp2_frame* frame, const std::uint8_t* name,
                    std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t /*flags*/,
                    void* user) {
    ClientConnection* connection = Of(user);
    const auto call = connection->Find(frame->hd.stream_id);
    if (call == nullptr) return 0;
    Status added = call->AddHeader(View(name, name_size), View(value, value_size));
    if (!added.ok()) connection->Abort(call, std::move(added));
    return 0;
  }

  static int Frame(nghttp2_session* /*session*/, const nghttp2_frame* frame, void* user) {
    Of(user)->OnFrame(*frame);
    return 0;
  }

  // A request that waited for its turn (MAX_CONCURRENT_STREAMS) when the server said GOAWAY never leaves.
  static int FrameNotSent(nghttp2_session* /*session*/, const nghttp2_frame* frame, int error, void* user) {
    if (frame->hd.type != NGHTTP2_HEADERS) return 0;
    if (const auto call = Of(user)->Find(frame->hd.stream_id)) {
      Of(user)->calls_.erase(frame->hd.stream_id);
      Of(user)->EndCall(call, NotProcessed(std::string("the call was not sent: ") + nghttp2_strerror(error)));
    }
    return 0;
  }

  static int Data(nghttp2_session* /*session*/, std::uint8_t /*flags*/, std::int32_t stream, const std::uint8_t* data,
                  std::size_t length, void* user) {
    Of(user)->OnData(stream, View(data, length));
    return 0;
  }

  static int StreamClose(nghttp2_session* /*session*/, std::int32_t stream, std::uint32_t http2_error, void* user) {
    Of(user)->OnStreamClosed(stream, http2_error);
    return 0;
  }
};

nghttp2_session_callbacks* ClientSessionCallbacks() {
  static nghttp2_session_callbacks* const shared = [] {
    nghttp2_session_callbacks* callbacks = nullptr;
    if (nghttp2_session_callbacks_new(&callbacks) != 0) return callbacks;
    nghttp2_session_callbacks_set_send_callback(callbacks, ClientCallbacks::Send);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, ClientCallbacks::SendData);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, FrameLength);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, ClientCallbacks::BeginHeaders);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, ClientCallbacks::Header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, ClientCallbacks::Frame);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, ClientCallbacks::FrameNotSent);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, ClientCallbacks::Data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, ClientCallbacks::StreamClose);
    return callbacks;
  }();
  return shared;
}

nghttp2_option* ClientSessionOptions() {
  static nghttp2_option* const shared = [] {
    nghttp2_option* options = nullptr;
    if (nghttp2_option_new(&options) == 0) nghttp2_option_set_no_auto_window_update(options, 1);
    return options;
  }();
  return shared;
}

void ClientConnection::OnFrame(const nghttp2_frame& frame) {
  if (state_ == State::kClosed) return;
  switch (frame.hd.type) {
    case NGHTTP2_SETTINGS:
      if ((frame.hd.flags & NGHTTP2_FLAG_ACK) == 0 && state_ == State::kConnecting) {
        state_ = State::kReady;
        owner_->OnConnectionReady(this);
      }
      return;
    case NGHTTP2_GOAWAY: OnGoAway(frame.goaway); return;
    case NGHTTP2_HEADERS: OnHeadersDone(frame); return;
    default: return;
  }
}

void ClientConnection::OnHeadersDone(const nghttp2_frame& frame) {
  const auto call = Find(frame.hd.stream_id);
  if (call == nullptr) return;
  Status read = call->EndHeaders();
  if (!read.ok()) Abort(call, std::move(read));
}

void ClientConnection::OnData(std::int32_t stream, std::string_view bytes) {
  // The window of the connection is never held back: a call that is paused must not stop the others.
  nghttp2_session_consume_connection(session_.get(), bytes.size());
  const auto call = Find(stream);
  if (call == nullptr) return;
  Status read = call->AddData(bytes);
  if (!read.ok()) return Abort(call, std::move(read));
  Grant(call.get(), bytes.size());
}

void ClientConnection::OnStreamClosed(std::int32_t stream, std::uint32_t http2_error) {
  const auto call = Find(stream);
  if (call == nullptr) return;
  calls_.erase(stream);
  EndCall(call, call->Outcome(http2_error));
  if (state_ == State::kDraining) ScheduleFlush();  // where a drained connection is closed
}

void ClientConnection::EndCall(const std::shared_ptr<CallState>& call, Status status) {
  if (owner_ != nullptr && WasNotProcessed(status)) {
    if (const auto delay = call->PrepareRetry()) return owner_->RetryCall(call, *delay);
  }
  call->Finish(std::move(status));
}

void ClientConnection::OnGoAway(const nghttp2_goaway& frame) {
  const std::string_view debug = View(frame.opaque_data, frame.opaque_data_len);
  const bool too_many_pings = frame.error_code == NGHTTP2_ENHANCE_YOUR_CALM && debug == "too_many_pings";
  if (state_ == State::kConnecting) {
    Lose({Code::kUnavailable,
          "the server refused the connection: " + std::string(nghttp2_http2_strerror(frame.error_code))});
    return;
  }
  if (state_ == State::kReady) {
    state_ = State::kDraining;
    owner_->OnConnectionDraining(this, too_many_pings);
  }
  std::vector<std::shared_ptr<CallState>> unseen;
  for (const auto& [stream, call] : calls_) {
    if (stream > frame.last_stream_id) unseen.push_back(call);
  }
  for (const auto& call : unseen) {
    calls_.erase(call->stream());  // nghttp2 closes their streams when this callback returns
    EndCall(call, NotProcessed("the server went away before it saw the call"));
  }
  ScheduleFlush();
}

void ClientConnection::CloseIfDrained() {
  const bool finished =
      nghttp2_session_want_read(session_.get()) == 0 && nghttp2_session_want_write(session_.get()) == 0;
  if (finished || (state_ == State::kDraining && calls_.empty())) {
    Lose(finished && state_ != State::kDraining ? Status(Code::kUnavailable, "the server ended the connection")
                                                : Status(Code::kUnavailable, "the connection was drained"));
  }
}

}  // namespace mesh::rpc
