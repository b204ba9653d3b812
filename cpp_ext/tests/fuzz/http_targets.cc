#include <algorithm>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "fuzz/target.h"
#include "http/request_parser.h"
#include "ingress/rest_route.h"

namespace mesh::fuzz {
namespace {

using http::RequestParser;

constexpr RequestParser::Limits kLimits{4096, 256UL * 1024};
constexpr std::size_t kBudget = 16UL << 20;

// What a connection held: requests as text, and whether it ended with a failure. Of two things that are wrong with one
// head (a bad name, too long) the pieces decide which is found first, so the failures are not compared.
struct Read {
  std::vector<std::string> requests;
  bool failed = false;

  bool operator==(const Read& other) const { return requests == other.requests && failed == other.failed; }
};

std::string Describe(const http::Request& request) {
  std::string text(request.method());
  text.append(" ").append(request.path()).append("?").append(request.query());
  text += request.keep_alive() ? " keep" : " close";
  for (const char* name : {"Host", "Content-Type", "Content-Encoding", "Inference-Header-Content-Length", "Expect"}) {
    text.append("\n").append(request.Header(name).value_or("-"));
  }
  return text.append("\n\n").append(request.body().view());
}

// Receives as a connection does: long bodies in their place, all else from a buffer.
std::string_view Receive(RequestParser* parser, std::string_view* bytes, std::size_t most, std::string* buffer) {
  const RequestParser::Space space = parser->BodySpace();
  const std::size_t size = std::min({bytes->size(), most, space.data == nullptr ? most : space.size});
  const std::string_view piece = bytes->substr(0, size);
  bytes->remove_prefix(size);
  if (space.data != nullptr) {
    std::memcpy(space.data, piece.data(), size);
    return {space.data, size};
  }
  buffer->assign(piece);
  buffer->shrink_to_fit();  // so that reads beyond it are found
  return *buffer;
}

template <typename NextPiece>
Read ReadConnection(std::string_view bytes, NextPiece next_piece) {
  const auto budget = std::make_shared<rpc::ReceiveBudget>(kBudget);
  Read read;
  {
    RequestParser parser(kLimits, budget.get());
    std::string buffer;
    while (!bytes.empty() && !read.failed) {
      std::string_view left = Receive(&parser, &bytes, next_piece(), &buffer);
      while (!left.empty()) {
        const std::size_t taken = parser.Consume(left);
        Require(taken <= left.size(), "more bytes taken than given");
        left.remove_prefix(taken);
        static_cast<void>(parser.TakeExpectation());
        if (parser.state() == RequestParser::State::kFailed) {
          read.failed = true;
          Require(parser.failure().status >= 400 && !parser.failure().message.empty(), "a failure without a reason");
          break;
        }
        if (parser.state() != RequestParser::State::kComplete) {
          Require(left.empty(), "bytes left over inside of a request");
          continue;
        }
        const http::Request request = parser.Take();
        Require(request.body().size() <= kLimits.body_bytes, "a body beyond the limit");
        static_cast<void>(ingress::FindRoute(request.path()));
        read.requests.push_back(Describe(request));
      }
    }
  }
  Require(budget->used() == 0, "received bytes stay counted");
  return read;
}

}  // namespace

void HttpConnection(std::string_view input) {
  if (input.empty()) return;
  std::minstd_rand cut(static_cast<unsigned char>(input[0]));
  const std::string_view bytes = input.substr(1);
  const Read whole = ReadConnection(bytes, [&] { return bytes.size(); });
  const Read pieces = ReadConnection(bytes, [&] { return 1 + cut() % 64; });
  Require(whole == pieces, "a connection reads differently in pieces");
}

}  // namespace mesh::fuzz
