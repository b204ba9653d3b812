#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "fuzz/target.h"
#include "rpc/framing.h"
#include "rpc/receive_buffer.h"
#include "rpc/request_headers.h"
#include "rpc/wire.h"

namespace mesh::fuzz {
namespace {

constexpr std::size_t kMaxMessage = 64UL * 1024;
constexpr std::size_t kBudget = 16UL << 20;
constexpr std::size_t kMaxHeaders = 4096;

// What a stream held: its messages, and how it ended.
struct Read {
  std::vector<std::string> messages;
  Status status;

  bool operator==(const Read& other) const {
    return messages == other.messages && status.ToString() == other.status.ToString();
  }
};

Result<std::string> Unpack(rpc::MessageReader* reader, bool in_steps) {
  if (!in_steps || !reader->packed()) {
    Result<rpc::Slice> message = reader->Take();
    if (!message.ok()) return message.status();
    return std::string(message.value().view());
  }
  rpc::Decompression steps(reader->encoding(), reader->TakePacked(), kMaxMessage, nullptr);
  while (true) {
    Result<bool> done = steps.Run(100);
    if (!done.ok()) return done.status();
    if (done.value()) return std::string(steps.Take().view());
  }
}

// `next_piece` says how many bytes come next.
template <typename NextPiece>
Read ReadStream(std::string_view stream, rpc::Encoding encoding, bool in_steps, NextPiece next_piece) {
  const auto budget = std::make_shared<rpc::ReceiveBudget>(kBudget);
  Read read;
  {
    rpc::MessageReader reader(kMaxMessage, budget.get());
    reader.set_encoding(encoding);
    while (!stream.empty() && read.status.ok()) {
      const std::string piece(stream.substr(0, next_piece()));  // of its own, so that reads beyond it are found
      stream.remove_prefix(piece.size());
      for (std::string_view left = piece; !left.empty() && read.status.ok();) {
        Result<std::size_t> taken = reader.Consume(left);
        if (!taken.ok()) {
          read.status = taken.status();
          break;
        }
        Require(taken.value() <= left.size(), "more bytes taken than given");
        left.remove_prefix(taken.value());
        if (!reader.ready()) {
          Require(left.empty(), "bytes left over inside of a message");
          continue;
        }
        Result<std::string> message = Unpack(&reader, in_steps);
        if (!message.ok()) {
          read.status = message.status();
          continue;
        }
        Require(message.value().size() <= kMaxMessage, "a message beyond the limit");
        read.messages.push_back(std::move(message).value());
      }
    }
    if (read.status.ok() && reader.mid_message()) read.status = reader.Truncated();
  }
  Require(budget->used() == 0, "received bytes stay counted");
  return read;
}

}  // namespace

void GrpcStream(std::string_view input) {
  if (input.size() < 2) return;
  const auto encoding = static_cast<rpc::Encoding>(static_cast<unsigned char>(input[0]) % 3);
  std::minstd_rand cut(static_cast<unsigned char>(input[1]));
  const std::string_view stream = input.substr(2);
  const Read whole = ReadStream(stream, encoding, false, [&] { return stream.size(); });
  const Read pieces = ReadStream(stream, encoding, true, [&] { return 1 + cut() % 64; });
  Require(whole == pieces, "a stream reads differently in pieces");
}

void GrpcHeaders(std::string_view input) {
  rpc::RequestHeaders headers;
  while (!input.empty()) {
    const std::string_view line = input.substr(0, input.find('\n'));
    input.remove_prefix(std::min(line.size() + 1, input.size()));
    const std::size_t colon = std::min(line.find(':', 1), line.size());
    const std::string_view value = line.substr(std::min(colon + 1, line.size()));
    headers.Add(line.substr(0, colon), value, kMaxHeaders);
    Require(rpc::PercentDecode(rpc::PercentEncode(value)) == value, "percent coding changes text");
    Require(rpc::Base64Decode(rpc::Base64Encode(value)) == value, "base64 changes bytes");
  }
  const auto fault = headers.Check(kMaxHeaders);
  Require(!fault.has_value() || !fault->status.ok(), "a fault without a status");
  if (fault.has_value()) return;
  Require(headers.bytes() <= kMaxHeaders, "headers beyond the limit pass");
  Require(!headers.path().empty() && headers.path().front() == '/', "a call without a path passes");
}

}  // namespace mesh::fuzz
