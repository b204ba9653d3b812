// From received bytes to handlers.
#include "http/connection.h"

#include <exception>
#include <utility>

#include "common/block_pool.h"

namespace mesh::http {
namespace {

// Reads in one turn, before other connections of the loop get theirs.
constexpr int kReadsPerTurn = 8;
// Requests that one connection may begin in one turn: they may all be answered at once.
constexpr int kRequestsPerTurn = 16;
// What a client may send ahead before nothing more is read.
constexpr std::size_t kHeldBytes = 16UL * 1024;

// The encoding of a body that this layer undoes; identity for what handlers get as it came.
rpc::Encoding BodyEncoding(const Request& request) {
  const std::optional<std::string_view> name = request.Header("content-encoding");
  if (!name.has_value() || request.body().empty()) return rpc::Encoding::kIdentity;
  return rpc::ParseEncoding(*name).value_or(rpc::Encoding::kIdentity);
}

}  // namespace

rpc::ConnectionFactory Serve(Handler handler) {
  auto shared = std::make_shared<const Handler>(std::move(handler));
  return [shared](rpc::ServerLoop* owner, std::unique_ptr<rpc::Transport> transport, std::string first_bytes) {
    return std::make_unique<Connection>(owner, std::move(transport), std::move(first_bytes), shared);
  };
}

Connection::Connection(rpc::ServerLoop* owner, std::unique_ptr<rpc::Transport> transport, std::string first_bytes,
                       std::shared_ptr<const Handler> handler)
    : owner_(owner),
      loop_(owner->loop()),
      options_(owner->context().options),
      transport_(std::move(transport)),
      handler_(std::move(handler)),
      peer_(std::make_shared<const std::string>(rpc::PeerAddress(transport_->fd()))),
      parser_({options_.max_metadata_bytes, options_.max_message_bytes}, owner->context().budget.get()),
      held_(std::move(first_bytes)),
      watchdog_([this] { OnWatchdog(); }),
      next_turn_([this] { FeedHeld(); }),
      last_read_(loop_.now()),
      last_moved_(last_read_) {}

Connection::~Connection() { loop_.CancelAtEnd(&flush_task_); }

void Connection::Start() {
  interest_ = EPOLLIN;
  if (!loop_.Add(transport_->fd(), interest_, this).ok()) {
    held_.clear();
    Close();
    return;
  }
  const std::string first_bytes = std::exchange(held_, {});
  Feed(first_bytes);
  AfterInput();
  if (transport_->encrypted()) ReadInput();  // TLS may hold more than the first read took
  if (state_ == State::kOpen) Watch();
}

void Connection::OnReady(std::uint32_t events) {
  if (state_ == State::kLingering) {
    if (!transport_->DiscardInput()) Close();
    return;
  }
  if (state_ == State::kClosed) return;
  if ((events & EPOLLOUT) != 0) MarkDirty();
  if (!wants_input() && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) return ClientClosed();
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0 || transport_->read_waits_for_write()) ReadInput();
}

bool Connection::wants_input() const {
  return state_ == State::kOpen && !closing_ && !client_closed_ && held_.size() < kHeldBytes;
}

void Connection::ReadInput() {
  // Bytes that TLS holds already would not wake the loop, so they are taken even when the turn is over.
  for (int turn = 0; turn < kReadsPerTurn || transport_->has_buffered_input(); ++turn) {
    if (!wants_input() || !ReadOnce()) break;
  }
  AfterInput();
}

void Connection::AfterInput() {
  if (state_ != State::kOpen) return;
  const bool in_head = parser_.state() == RequestParser::State::kHead;
  if (!in_head) {
    head_began_ = {};
  } else if (head_began_ == rpc::EventLoop::TimePoint()) {
    head_began_ = loop_.now();
    Watch();
  }
  MarkDirty();
}

// False when there is nothing more to read for now.
bool Connection::ReadOnce() {
  RequestParser::Space space;
  if (exchange_ == nullptr && held_.empty()) space = parser_.BodySpace();
  if (space.size == 0) space = {owner_->read_buffer().data(), owner_->read_buffer().size()};
  const rpc::Transport::Io io = transport_->Read(space.data, space.size);
  if (io.state == rpc::Transport::IoState::kBlocked) return false;
  if (io.state != rpc::Transport::IoState::kOk) {
    ClientClosed();
    return false;
  }
  owner_->counters().bytes_received.Add(io.bytes);
  last_read_ = loop_.now();
  Feed({space.data, io.bytes});
  return io.bytes == space.size;
}

bool Connection::may_begin() {
  if (turn_ != loop_.now()) {
    turn_ = loop_.now();
    begun_in_turn_ = 0;
  }
  return exchange_ == nullptr && !clogged() && begun_in_turn_ < kRequestsPerTurn;
}

void Connection::Feed(std::string_view bytes) {
  if (!held_.empty()) return Hold(bytes);
  while (!bytes.empty() && state_ == State::kOpen && !closing_) {
    if (!may_begin()) return Hold(bytes);
    bytes.remove_prefix(parser_.Consume(bytes));
    if (parser_.state() == RequestParser::State::kFailed) return Refuse(parser_.failure());
    if (parser_.state() == RequestParser::State::kComplete) Dispatch();
  }
  if (parser_.TakeExpectation()) {
    output_.Append("HTTP/1.1 100 Continue\r\n\r\n");
    MarkDirty();
  }
}

void Connection::Hold(std::string_view bytes) {
  if (!owner_->context().budget->Take(bytes.size())) {
    // The client may send it again elsewhere: after the answer that runs the connection ends.
    keep_alive_ = false;
    closing_ = exchange_ == nullptr;
    MarkDirty();
    return;
  }
  held_.append(bytes);
  if (exchange_ == nullptr && !clogged() && !next_turn_.armed()) {
    loop_.Arm(&next_turn_, loop_.now() + std::chrono::nanoseconds(1));  // due at once, but not in this iteration
  }
}

void Connection::FeedHeld() {
  if (state_ != State::kOpen || held_.empty()) return;
  const std::string bytes = std::exchange(held_, {});
  owner_->context().budget->Give(bytes.size());
  Feed(bytes);
  if (state_ != State::kOpen) return;
  if (transport_->has_buffered_input()) ReadInput();  // what TLS holds does not wake the loop
  MarkDirty();
}

void Connection::Dispatch() {
  Request request = parser_.Take();
  head_began_ = drain_notice_ = {};
  ++begun_in_turn_;
  is_head_ = request.is_head();
  is_http10_ = request.is_http10();
  keep_alive_ = request.keep_alive();
  answering_ = chunks_ = false;
  const rpc::Encoding encoding = BodyEncoding(request);
  exchange_ = std::allocate_shared<ExchangeImpl>(BlockAllocator<ExchangeImpl>(), this, std::move(request));
  owner_->counters().calls_total.Add(1);
  owner_->counters().calls_open.Add(1);
  if (encoding == rpc::Encoding::kIdentity) return Handle();
  const rpc::ServerContext& context = owner_->context();
  inflating_ = std::make_unique<rpc::Decompression>(encoding, exchange_->request().TakeBody(),
                                                    options_.max_decompressed_bytes, context.budget.get());
  Inflate();
}

void Connection::Inflate() {
  if (inflating_ == nullptr) return;
  rpc::InflateTurns& turns = owner_->inflate_turns();
  if (const std::size_t allowed = turns.left(); allowed > 0) {
    Result<bool> done = inflating_->Run(allowed);
    turns.Spend(inflating_->work_done());
    if (!done.ok()) {
      const bool damaged = done.status().code() == Code::kInternal;
      const int status = damaged ? 400 : inflating_->exceeded() ? 413 : 503;
      inflating_ = nullptr;
      return exchange_->Respond(JsonError(status, done.status().message()));
    }
    if (done.value()) {
      exchange_->request().ReplaceBody(inflating_->Take());
      inflating_ = nullptr;
      return Handle();
    }
  }
  turns.Wait(exchange_);
}

void Connection::Handle() {
  const std::shared_ptr<ExchangeImpl> exchange = exchange_;
  try {
    (*handler_)(exchange);
    return;
  } catch (const std::exception& error) {
    owner_->context().Log("handler threw", std::string(exchange->request().path()) + ": " + error.what());
  } catch (...) {
    owner_->context().Log("handler threw", "an exception of an unknown type");
  }
  exchange->Respond(JsonError(500, "internal error"));
}

void Connection::Refuse(const RequestParser::Failure& failure) {
  owner_->counters().protocol_errors.Add(1);
  owner_->context().Log("connection broke the protocol", *peer_ + ": " + failure.message);
  keep_alive_ = false;
  is_head_ = is_http10_ = false;
  SendHead(JsonError(failure.status, failure.message), false);
  closing_ = true;
  MarkDirty();
}

}  // namespace mesh::http
