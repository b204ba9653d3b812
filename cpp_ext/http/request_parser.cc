#include "http/request_parser.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

namespace mesh::http {
namespace {

// Shorter bodies come with the read that also takes what follows them.
constexpr std::size_t kDirectBytes = 64UL * 1024;
// How much room is made at a time: a length that lies must not cost much.
constexpr std::size_t kDirectStep = 1UL << 20;
// A header costs more than its text.
constexpr std::size_t kHeaderOverhead = 32;

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace

bool SameText(std::string_view a, std::string_view b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return Lower(x) == Lower(y); });
}

std::optional<std::string_view> Request::Header(std::string_view name) const {
  for (const Line& line : headers_) {
    if (SameText(View(line.name), name)) return View(line.value);
  }
  return std::nullopt;
}

std::vector<std::pair<std::string, std::string>> Request::Headers() const {
  std::vector<std::pair<std::string, std::string>> headers;
  headers.reserve(headers_.size());
  for (const Line& line : headers_) {
    std::string name(View(line.name));
    for (char& letter : name) {
      if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
    }
    headers.emplace_back(std::move(name), View(line.value));
  }
  return headers;
}

// http-parser's C callbacks; a return other than 0 ends the parsing.
struct ParserCallbacks {
  static RequestParser& Of(http_parser* parser) { return *static_cast<RequestParser*>(parser->data); }

  static int Begin(http_parser* parser) {
    Of(parser).state_ = RequestParser::State::kHead;
    return 0;
  }
  static int Url(http_parser* parser, const char* at, std::size_t size) {
    return Of(parser).Append({at, size}, &Of(parser).target_);
  }
  static int HeaderName(http_parser* parser, const char* at, std::size_t size) {
    return Of(parser).OnHeaderName({at, size});
  }
  static int HeaderValue(http_parser* parser, const char* at, std::size_t size) {
    return Of(parser).OnHeaderValue({at, size});
  }
  static int HeadersComplete(http_parser* parser) { return Of(parser).OnHeadersComplete(); }
  static int Body(http_parser* parser, const char* at, std::size_t size) { return Of(parser).OnBody({at, size}); }
  static int Complete(http_parser* parser) {
    Of(parser).state_ = RequestParser::State::kComplete;
    http_parser_pause(parser, 1);  // what follows is the next request's
    return 0;
  }
  static const http_parser_settings* Settings() {
    static const http_parser_settings settings = [] {
      http_parser_settings made;
      http_parser_settings_init(&made);
      made.on_message_begin = Begin;
      made.on_url = Url;
      made.on_header_field = HeaderName;
      made.on_header_value = HeaderValue;
      made.on_headers_complete = HeadersComplete;
      made.on_body = Body;
      made.on_message_complete = Complete;
      return made;
    }();
    return &settings;
  }
};

RequestParser::RequestParser(Limits limits, rpc::ReceiveBudget* budget) : limits_(limits), body_(budget) {
  http_parser_init(&parser_, HTTP_REQUEST);
  parser_.data = this;
}

std::size_t RequestParser::Consume(std::string_view bytes) {
  if (state_ == State::kComplete || state_ == State::kFailed) return 0;
  const std::size_t used = http_parser_execute(&parser_, ParserCallbacks::Settings(), bytes.data(), bytes.size());
  const http_errno error = HTTP_PARSER_ERRNO(&parser_);
  if (error == HPE_OK) return used;
  if (error == HPE_PAUSED) {
    http_parser_pause(&parser_, 0);
    return used;
  }
  if (state_ == State::kFailed) return used;  // a callback has said why
  if (error == HPE_HEADER_OVERFLOW) {
    Fail(431, "the headers are larger than this server reads");
  } else {
    Fail(400, std::string("the request is not valid HTTP/1.1: ") + http_errno_description(error));
  }
  return used;
}

int RequestParser::Fail(int status, std::string message) {
  state_ = State::kFailed;
  failure_ = {status, std::move(message)};
  body_.Release();
  return -1;
}

int RequestParser::Append(std::string_view bytes, Request::Range* range) {
  head_bytes_ += bytes.size();
  if (head_bytes_ > limits_.head_bytes) {
    return Fail(431,
                "the headers are larger than " + std::to_string(limits_.head_bytes) + " bytes, which is the limit");
  }
  if (state_ != State::kHead) return 0;  // trailers are only counted
  if (range->size == 0) range->begin = static_cast<std::uint32_t>(request_.text_.size());
  request_.text_.append(bytes);
  range->size += static_cast<std::uint32_t>(bytes.size());
  return 0;
}

int RequestParser::OnHeaderName(std::string_view bytes) {
  // http-parser lets them pass, other servers do not: whoever stands before us must read the same header.
  if (bytes.find(' ') != std::string_view::npos) return Fail(400, "a header's name has a space in it");
  if (std::exchange(in_value_, false)) {
    head_bytes_ += kHeaderOverhead;
    if (state_ == State::kHead) request_.headers_.emplace_back();
  }
  Request::Range unused;
  return Append(bytes, state_ == State::kHead ? &request_.headers_.back().name : &unused);
}

int RequestParser::OnHeaderValue(std::string_view bytes) {
  in_value_ = true;
  Request::Range unused;
  return Append(bytes, state_ == State::kHead ? &request_.headers_.back().value : &unused);
}

int RequestParser::OnHeadersComplete() {
  if (parser_.http_major != 1) return Fail(505, "this server speaks HTTP/1.1 and HTTP/2");
  parser_.upgrade = 0;  // an offer that is not taken
  request_.method_ = http_method_str(static_cast<http_method>(parser_.method));
  request_.keep_alive_ = http_should_keep_alive(&parser_) != 0;
  request_.http10_ = parser_.http_minor == 0;
  SplitTarget();
  chunked_ = (parser_.flags & F_CHUNKED) != 0;
  const bool declared = !chunked_ && parser_.content_length != std::numeric_limits<std::uint64_t>::max();
  length_ = declared ? parser_.content_length : 0;
  if (length_ > limits_.body_bytes) {
    return Fail(413, "the body of " + std::to_string(length_) + " bytes is larger than " +
                         std::to_string(limits_.body_bytes) + " bytes, which is the limit");
  }
  state_ = State::kBody;
  return CheckExpectation();
}

int RequestParser::CheckExpectation() {
  const std::optional<std::string_view> expected = request_.Header("expect");
  if (!expected.has_value() || request_.http10_) return 0;
  if (!SameText(*expected, "100-continue")) {
    return Fail(417, "the only expectation that can be met is '100-continue'");
  }
  expects_continue_ = chunked_ || length_ > 0;
  return 0;
}

// "/path?query", or all of that behind "http://host".
void RequestParser::SplitTarget() {
  const std::string_view target = request_.View(target_);
  std::size_t begin = 0;
  if (const std::size_t scheme = target.find("://"); !target.empty() && target.front() != '/' && scheme < 8) {
    begin = std::min(target.find('/', scheme + 3), target.size());
  }
  const std::size_t mark = std::min(target.find('?', begin), target.size());
  const std::size_t rest = std::min(mark + 1, target.size());
  request_.path_ = {target_.begin + static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(mark - begin)};
  request_.query_ = {target_.begin + static_cast<std::uint32_t>(rest),
                     static_cast<std::uint32_t>(target.size() - rest)};
}

int RequestParser::OnBody(std::string_view bytes) {
  if (body_.data() != nullptr && bytes.data() == body_.data() + filled_) {  // received in its place
    filled_ += bytes.size();
    return 0;
  }
  if (bytes.size() > limits_.body_bytes - filled_) {
    return Fail(413, "the body is larger than " + std::to_string(limits_.body_bytes) + " bytes, which is the limit");
  }
  const auto grown = body_.Grow(filled_ + bytes.size(), chunked_ ? limits_.body_bytes : length_);
  if (grown != rpc::ReceiveBuffer::Outcome::kOk) {
    return Fail(503, body_.Failure(grown, "the body of a request").message());
  }
  std::memcpy(body_.data() + filled_, bytes.data(), bytes.size());
  filled_ += bytes.size();
  return 0;
}

RequestParser::Space RequestParser::BodySpace() {
  if (state_ != State::kBody || chunked_ || length_ - filled_ < kDirectBytes) return {};
  const auto grown = body_.Grow(std::min(filled_ + kDirectStep, length_), length_);
  if (grown != rpc::ReceiveBuffer::Outcome::kOk) return {};  // Consume will say so
  return {body_.data() + filled_, std::min(body_.capacity(), length_) - filled_};
}

Request RequestParser::Take() {
  request_.body_ = body_.Detach(filled_);
  Request taken = std::exchange(request_, Request());
  state_ = State::kIdle;
  target_ = {};
  head_bytes_ = 0;
  in_value_ = true;
  expects_continue_ = false;
  chunked_ = false;
  length_ = 0;
  filled_ = 0;
  return taken;
}

}  // namespace mesh::http
