// Bytes of a connection to requests: http-parser's grammar with limits, and bodies in one piece.
//
//   while (!bytes.empty()) {
//     bytes.remove_prefix(parser.Consume(bytes));          // at most to the end of one request
//     if (parser.state() == kFailed) answer parser.failure() and close;
//     if (parser.state() == kComplete) Handle(parser.Take());
//   }
#pragma once

#include <http_parser.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "http/request.h"
#include "rpc/receive_buffer.h"

namespace mesh::http {

class RequestParser {
 public:
  struct Limits {
    std::size_t head_bytes;
    std::size_t body_bytes;
  };
  // What the client is told before the connection ends.
  struct Failure {
    int status = 0;
    std::string message;
  };
  enum class State : std::uint8_t {
    kIdle,      // between requests
    kHead,      // its head is incomplete
    kBody,      // its body is incomplete
    kComplete,  // Take() it
    kFailed,    // failure() says why; nothing more can be read
  };

  RequestParser(Limits limits, rpc::ReceiveBudget* budget);
  RequestParser(const RequestParser&) = delete;
  RequestParser& operator=(const RequestParser&) = delete;

  // Returns how many of the bytes it took; `bytes` must not be empty.
  std::size_t Consume(std::string_view bytes);
  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] const Failure& failure() const { return failure_; }
  // True once, in kBody, for a client that waits for "100 Continue".
  [[nodiscard]] bool TakeExpectation() { return std::exchange(expects_continue_, false); }

  // Where the next bytes of a long body may be received, to be given to Consume from there without a further copy;
  // empty when they are to come from elsewhere.
  struct Space {
    char* data = nullptr;
    std::size_t size = 0;
  };
  [[nodiscard]] Space BodySpace();

  // The complete request. The parser goes on with the next.
  [[nodiscard]] Request Take();

 private:
  friend struct ParserCallbacks;

  int Fail(int status, std::string message);
  int Append(std::string_view bytes, Request::Range* range);
  int OnHeaderName(std::string_view bytes);
  int OnHeaderValue(std::string_view bytes);
  int OnHeadersComplete();
  int OnBody(std::string_view bytes);
  void SplitTarget();
  int CheckExpectation();

  const Limits limits_;
  http_parser parser_{};
  State state_ = State::kIdle;
  Failure failure_;
  Request request_;
  Request::Range target_;
  std::size_t head_bytes_ = 0;
  bool in_value_ = true;  // the last piece of a header was of its value
  bool expects_continue_ = false;
  bool chunked_ = false;
  std::size_t length_ = 0;  // of a body that is not chunked
  rpc::ReceiveBuffer body_;
  std::size_t filled_ = 0;
};

}  // namespace mesh::http
