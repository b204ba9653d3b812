// What nghttp2 reports about a connection: frames, headers, data, ended streams. And what looks like an attack.
#include <algorithm>
#include <string>

#include "common/block_pool.h"
#include "common/memory.h"
#include "rpc/frame_size.h"
#include "rpc/server_connection.h"

namespace mesh::rpc {
namespace {

// A stream that is reset sooner is suspicious in masses (CVE-2023-44487): the work for it is wasted.
constexpr std::chrono::milliseconds kRapid{100};
// Headers beyond the limit are only counted, and beyond this multiple of it nobody counts any more.
constexpr std::size_t kBombFactor = 4;
constexpr std::uint8_t kDrainPing[8] = {'m', 'e', 's', 'h', 'd', 'r', 'a', 'n'};

CallImpl* FindCall(nghttp2_session* session, std::int32_t stream_id) {
  return static_cast<CallImpl*>(nghttp2_session_get_stream_user_data(session, stream_id));
}

std::string_view View(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

ServerOptions WithLimits(ServerOptions options) {
  const auto memory = static_cast<std::size_t>(MemoryLimitBytes());
  if (options.max_receiving_bytes == 0) options.max_receiving_bytes = memory / 2;
  if (options.max_unsent_bytes == 0) options.max_unsent_bytes = memory / 4;
  // Larger ones could never be received, so they are refused at once.
  options.max_message_bytes = std::min(options.max_message_bytes, options.max_receiving_bytes);
  options.max_decompressed_bytes = std::min(options.max_decompressed_bytes, options.max_message_bytes);
  return options;
}

}  // namespace

// nghttp2's C callbacks; `user` is the connection. Nothing throws through them: handlers are caught in CallImpl.
struct SessionCallbacks {
  static int BeginFrame(nghttp2_session* /*session*/, const nghttp2_frame_hd* header, void* user) {
    return static_cast<Connection*>(user)->OnBeginFrame(*header);
  }
  static int BeginHeaders(nghttp2_session* /*session*/, const nghttp2_frame* frame, void* user) {
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    return static_cast<Connection*>(user)->OnBeginHeaders(frame->hd.stream_id);
  }
  static int Header(nghttp2_session* session, const nghttp2_frame* frame, const std::uint8_t* name,
                    std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t /*flags*/,
                    void* user) {
    CallImpl* call = FindCall(session, frame->hd.stream_id);
    if (call == nullptr) return 0;
    return static_cast<Connection*>(user)->OnHeader(call, frame->headers.cat == NGHTTP2_HCAT_REQUEST,
                                                    View(name, name_size), View(value, value_size));
  }
  static int FrameReceived(nghttp2_session* /*session*/, const nghttp2_frame* frame, void* user) {
    return static_cast<Connection*>(user)->OnFrame(*frame);
  }
  static int InvalidFrame(nghttp2_session* /*session*/, const nghttp2_frame* frame, int error, void* user) {
    return static_cast<Connection*>(user)->OnInvalidFrame(*frame, error);
  }
  static int Data(nghttp2_session* session, std::uint8_t /*flags*/, std::int32_t stream_id, const std::uint8_t* data,
                  std::size_t size, void* user) {
    return static_cast<Connection*>(user)->OnData(FindCall(session, stream_id), stream_id, View(data, size));
  }
  static int StreamClosed(nghttp2_session* session, std::int32_t stream_id, std::uint32_t /*error_code*/, void* user) {
    return static_cast<Connection*>(user)->OnStreamClose(FindCall(session, stream_id));
  }
  static int FrameSent(nghttp2_session* /*session*/, const nghttp2_frame* frame, void* user) {
    return static_cast<Connection*>(user)->OnFrameSent(*frame);
  }
  static int SendData(nghttp2_session* session, nghttp2_frame* frame, const std::uint8_t* frame_header,
                      std::size_t length, nghttp2_data_source* /*source*/, void* user) {
    return static_cast<Connection*>(user)->OnSendData(FindCall(session, frame->hd.stream_id), View(frame_header, 9),
                                                      length);
  }
};

ServerContext::ServerContext(ServerOptions given)
    : options(WithLimits(std::move(given))), budget(std::make_shared<ReceiveBudget>(options.max_receiving_bytes)) {
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, SessionCallbacks::BeginFrame);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, SessionCallbacks::BeginHeaders);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, SessionCallbacks::Header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, SessionCallbacks::FrameReceived);
  nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, SessionCallbacks::InvalidFrame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, SessionCallbacks::Data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, SessionCallbacks::StreamClosed);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, SessionCallbacks::FrameSent);
  nghttp2_session_callbacks_set_send_data_callback(callbacks, SessionCallbacks::SendData);
  nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, FrameLength);
  nghttp2_option_new(&session_options);
  nghttp2_option_set_no_auto_window_update(session_options, 1);
  nghttp2_option_set_no_closed_streams(session_options, 1);
#ifdef MESH_NGHTTP2_HAS_RESET_LIMIT
  nghttp2_option_set_stream_reset_rate_limit(session_options, 10000, 1000);  // ours is stricter where it matters
#endif
}

std::uint64_t ServerContext::unsent_bytes() const {
  std::uint64_t all = 0;
  for (const Counter* unsent : unsent_by_loop) all += unsent->get();
  return all;
}

ServerContext::~ServerContext() {
  nghttp2_session_callbacks_del(callbacks);
  nghttp2_option_del(session_options);
}

int Connection::OnBeginFrame(const nghttp2_frame_hd& header) {
  // These do nothing here, and nghttp2 does not report them as received.
  if (header.type != NGHTTP2_PRIORITY && header.type <= NGHTTP2_CONTINUATION) return 0;
  if (!control_frames_.Take(loop_.now())) CalmDown("too many frames without a purpose");
  return 0;
}

int Connection::OnBeginHeaders(std::int32_t stream_id) {
  auto call = std::allocate_shared<CallImpl>(BlockAllocator<CallImpl>(), this, stream_id);
  nghttp2_session_set_stream_user_data(session_, stream_id, call.get());
  call->next = calls_;
  if (calls_ != nullptr) calls_->previous = call.get();
  calls_ = call.get();
  ++call_count_;
  call->self = std::move(call);
  headers_began_ = loop_.now();
  owner_->counters().calls_total.Add(1);
  owner_->counters().calls_open.Add(1);
  return 0;
}

int Connection::OnHeader(CallImpl* call, bool request, std::string_view name, std::string_view value) {
  if (!request) return 0;  // trailers of a request: gRPC has none
  call->AddHeader(name, value);
  if (call->header_bytes() <= kBombFactor * options_.max_metadata_bytes) return 0;
  CalmDown("a header block is many times larger than the limit");
  return NGHTTP2_ERR_CALLBACK_FAILURE;
}

int Connection::OnFrame(const nghttp2_frame& frame) {
  last_frame_ = loop_.now();
  const bool end_stream = (frame.hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  if (frame.hd.type == NGHTTP2_HEADERS) {
    headers_began_ = {};
    CallImpl* call = FindCall(session_, frame.hd.stream_id);
    if (call == nullptr) return 0;
    if (frame.headers.cat == NGHTTP2_HCAT_REQUEST) {
      call->HeadersComplete(end_stream);
    } else if (end_stream) {
      call->RequestEnded();
    }
    return 0;
  }
  if (frame.hd.type == NGHTTP2_DATA && (frame.hd.length > 0 || end_stream)) {
    CallImpl* call = end_stream ? FindCall(session_, frame.hd.stream_id) : nullptr;
    if (call != nullptr) call->RequestEnded();
    return 0;
  }
  return OnControlFrame(frame);
}

int Connection::OnControlFrame(const nghttp2_frame& frame) {
  const bool ack = (frame.hd.flags & NGHTTP2_FLAG_ACK) != 0;
  switch (frame.hd.type) {
    case NGHTTP2_WINDOW_UPDATE:
    case NGHTTP2_GOAWAY: return 0;
    case NGHTTP2_RST_STREAM: {
      const CallImpl* call = FindCall(session_, frame.hd.stream_id);
      const bool rapid = call != nullptr && loop_.now() - call->started() < kRapid;
      if (rapid && !resets_.Take(loop_.now())) CalmDown("too many streams were opened and reset at once");
      if (call != nullptr) return 0;
      break;
    }
    case NGHTTP2_SETTINGS:
      if (!std::exchange(settings_received_, true)) Watch();
      if (ack) return 0;
      break;
    case NGHTTP2_PING:
      if (ack) {
        ping_sent_ = {};
        Watch();
        if (drain_notice_ != EventLoop::TimePoint() && std::equal(kDrainPing, kDrainPing + 8, frame.ping.opaque_data)) {
          FinishDrain();
        }
        return 0;
      }
      if (std::exchange(sent_since_ping_, false)) return 0;  // probes of the bandwidth come with our answers
      break;
    case NGHTTP2_DATA: break;  // an empty one
    default: return 0;         // OnBeginFrame has counted it
  }
  if (!control_frames_.Take(loop_.now())) CalmDown("too many control frames");
  return 0;
}

int Connection::OnInvalidFrame(const nghttp2_frame& /*frame*/, int /*error*/) {
  owner_->counters().protocol_errors.Add(1);
  if (!invalid_frames_.Take(loop_.now())) CalmDown("too many invalid frames");
  return 0;
}

int Connection::OnData(CallImpl* call, std::int32_t stream_id, std::string_view bytes) {
  last_frame_ = loop_.now();
  // A client that takes no answers may close their windows and still read; its requests must not pile up here.
  if (clogged()) {
    unconsumed_ += bytes.size();
  } else {
    nghttp2_session_consume_connection(session_, bytes.size());
  }
  if (call != nullptr) {
    call->DataReceived(bytes);
  } else {
    nghttp2_session_consume_stream(session_, stream_id, bytes.size());
  }
  return 0;
}

int Connection::OnStreamClose(CallImpl* call) {
  if (call == nullptr) return 0;
  const std::shared_ptr<CallImpl> held = call->self;
  if (call->answered()) resets_.Give();  // a client that also takes answers may cancel as often as it likes
  Unlink(call);
  call->StreamClosed();
  return 0;
}

int Connection::OnFrameSent(const nghttp2_frame& frame) {
  if (frame.hd.type == NGHTTP2_GOAWAY && frame.goaway.error_code != NGHTTP2_NO_ERROR && !doomed_) {
    owner_->counters().protocol_errors.Add(1);
    owner_->context().Log("connection broke the protocol",
                          *peer_ + ": " + nghttp2_http2_strerror(frame.goaway.error_code));
  }
  if (frame.hd.type != NGHTTP2_HEADERS) return 0;
  sent_since_ping_ = true;
  if ((frame.hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return 0;
  const CallImpl* call = FindCall(session_, frame.hd.stream_id);
  if (call == nullptr || call->end_received()) return 0;
  // Answered before the client had sent all: it may stop.
  nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR);
  return 0;
}

int Connection::OnSendData(CallImpl* call, std::string_view frame_header, std::size_t length) {
  if (output_.size() >= kFillBytes) return NGHTTP2_ERR_WOULDBLOCK;
  if (call == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  output_.Append(frame_header);
  call->MoveData(length);
  last_moved_ = loop_.now();
  sent_since_ping_ = true;
  return 0;
}

void Connection::CalmDown(const char* why) {
  if (doomed_) return;
  doomed_ = true;
  owner_->counters().protocol_errors.Add(1);
  owner_->context().Log("connection looks hostile", *peer_ + ": " + why);
  nghttp2_session_terminate_session(session_, NGHTTP2_ENHANCE_YOUR_CALM);
}

void Connection::Unlink(CallImpl* call) {
  if (call->previous != nullptr) call->previous->next = call->next;
  if (call->next != nullptr) call->next->previous = call->previous;
  if (calls_ == call) calls_ = call->next;
  call->previous = call->next = nullptr;
  --call_count_;
  owner_->counters().calls_open.Subtract(1);
  call->self.reset();
}

void Connection::BeginDrain() {
  if (draining_ || !busy()) return;
  draining_ = true;
  if (state_ == State::kHandshake) {
    Close("the server drains");
    return;
  }
  drain_notice_ = loop_.now();
  if (state_ == State::kGreeting) {  // a request of HTTP/1 may be on its way, and could not be told to go elsewhere
    Watch();
    return;
  }
  nghttp2_submit_shutdown_notice(session_);
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kDrainPing);
  Watch();
  MarkDirty();
}

void Connection::FinishDrain() {
  drain_notice_ = {};
  nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                        NGHTTP2_NO_ERROR, nullptr, 0);
  MarkDirty();
}

}  // namespace mesh::rpc
