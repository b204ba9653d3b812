// gRPC's length-prefixed messages: one byte "compressed", four bytes length, big-endian, then the message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "rpc/compression.h"
#include "rpc/message.h"
#include "rpc/output_queue.h"
#include "rpc/receive_buffer.h"

namespace mesh::rpc {

inline constexpr std::size_t kPrefixBytes = 5;

// Cuts the received bytes of one stream into messages. A message is one contiguous allocation, which grows as bytes
// arrive: a length that lies costs no memory.
//
//   while (!bytes.empty()) {
//     Result<std::size_t> taken = reader.Consume(bytes);   // at most to the end of one message
//     bytes.remove_prefix(taken.value());
//     if (reader.ready()) Deliver(reader.Take());          // or TakePacked, and decompress it in steps
//   }
class MessageReader {
 public:
  // `budget`: see ReceiveBuffer.
  explicit MessageReader(std::size_t max_message_bytes, ReceiveBudget* budget = nullptr)
      : max_message_bytes_(max_message_bytes), buffer_(budget) {}
  MessageReader(const MessageReader&) = delete;
  MessageReader& operator=(const MessageReader&) = delete;

  // grpc-encoding of the stream, known from its headers.
  void set_encoding(Encoding encoding) { encoding_ = encoding; }
  [[nodiscard]] Encoding encoding() const { return encoding_; }

  // Returns how many bytes it took. After an error the stream is lost.
  Result<std::size_t> Consume(std::string_view bytes);
  [[nodiscard]] bool ready() const { return prefix_filled_ == kPrefixBytes && filled_ == declared_; }
  // Whether the ready message is compressed.
  [[nodiscard]] bool packed() const { return compressed_; }
  // The ready message as it arrived.
  [[nodiscard]] Slice TakePacked();
  // The ready message, decompressed at once.
  Result<Slice> Take();
  // Frees what was received of an unfinished message. The reader must not be fed any more.
  void Clear() { buffer_.Release(); }

  // Part of a message has arrived: the stream must not end here.
  [[nodiscard]] bool mid_message() const { return prefix_filled_ > 0; }
  // Of the message that is being received, without its prefix; 0 while the prefix itself is incomplete.
  [[nodiscard]] std::size_t declared() const { return prefix_filled_ == kPrefixBytes ? declared_ : 0; }
  [[nodiscard]] std::size_t filled() const { return filled_; }
  // INTERNAL: "the stream ended after 7 of 20 bytes of a message".
  [[nodiscard]] Status Truncated() const;

 private:
  Status ParsePrefix();
  [[nodiscard]] Status NoRoom(ReceiveBuffer::Outcome outcome) const;

  const std::size_t max_message_bytes_;
  ReceiveBuffer buffer_;
  Encoding encoding_ = Encoding::kIdentity;
  unsigned char prefix_[kPrefixBytes] = {};
  std::size_t prefix_filled_ = 0;
  bool compressed_ = false;
  std::size_t declared_ = 0;
  std::size_t filled_ = 0;
};

// The messages of one stream on their way out, with their prefixes.
class OutgoingMessages {
 public:
  // Compresses when `encoding` is not identity. Fails only for messages that the length prefix cannot express.
  Status Push(Message message, Encoding encoding);
  // The same for a message that is compressed already, if it is: at most 4 GiB - 1.
  void PushEncoded(const Message& message, bool compressed) {
    PushSlices(message.slices(), message.size(), compressed);
  }
  // Bytes that wait, prefixes included.
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  // What is kept for them, moved ones included.
  [[nodiscard]] std::size_t kept_pieces() const { return pieces_.size(); }
  // Moves the first `bytes` to `out`.
  void MoveTo(OutputQueue* out, std::size_t bytes);
  void Clear();

 private:
  struct Piece {
    Slice slice;
    unsigned char prefix[kPrefixBytes];
    unsigned char prefix_left;  // how many of its last bytes still wait
  };

  void PushSlices(const std::vector<Slice>& slices, std::size_t bytes, bool compressed);
  void ForgetMoved();

  std::vector<Piece> pieces_;
  std::size_t head_ = 0;
  std::size_t head_offset_ = 0;  // bytes of the head's slice that were moved
  std::size_t size_ = 0;
};

}  // namespace mesh::rpc
