// Message compression: gzip and deflate (zlib), as grpc-encoding names them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"
#include "rpc/message.h"
#include "rpc/receive_buffer.h"

struct z_stream_s;

namespace mesh::rpc {

enum class Encoding : std::uint8_t { kIdentity, kGzip, kDeflate };

// The value of grpc-accept-encoding for all that Decompress understands.
inline constexpr std::string_view kAcceptedEncodings = "identity,deflate,gzip";

// "gzip"; nullopt for an encoding that is not supported.
std::optional<Encoding> ParseEncoding(std::string_view name);
std::string_view EncodingName(Encoding encoding);
// Whether the list of a grpc-accept-encoding header allows it. Identity always is.
bool Accepts(std::string_view accept_encoding, Encoding encoding);

Result<std::string> Compress(Encoding encoding, const Message& message);

// The decompression of one message, in steps of bounded work.
class Decompression {
 public:
  // `budget` may be null; else what comes out is counted there as it grows.
  Decompression(Encoding encoding, Slice packed, std::size_t limit, ReceiveBudget* budget);
  ~Decompression();
  Decompression(const Decompression&) = delete;
  Decompression& operator=(const Decompression&) = delete;

  // Goes on until about `work` bytes were read and written. True when the message is complete: Take() it.
  // RESOURCE_EXHAUSTED as soon as more than the limit, or than the budget has left, comes out, before it is stored;
  // INTERNAL for damaged input. After an error it must not be called again.
  Result<bool> Run(std::size_t work);
  // Whether the last Run failed because more came out than the limit.
  [[nodiscard]] bool exceeded() const { return filled_ > limit_; }
  // Of the last Run.
  [[nodiscard]] std::size_t work_done() const { return work_done_; }
  [[nodiscard]] Slice Take() { return out_.Detach(filled_); }

 private:
  void Feed(std::size_t most);
  Status MakeRoom();
  [[nodiscard]] Status Damaged() const;

  const Encoding encoding_;
  Slice packed_;
  const std::size_t limit_;
  std::unique_ptr<z_stream_s> stream_;  // null when zlib had no memory
  std::size_t fed_ = 0;                 // of packed_
  ReceiveBuffer out_;
  std::size_t filled_ = 0;
  std::size_t work_done_ = 0;
};

// All at once, however long it takes.
Result<Slice> Decompress(Encoding encoding, std::string_view bytes, std::size_t limit);

}  // namespace mesh::rpc
