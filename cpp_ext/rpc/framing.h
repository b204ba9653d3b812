// gRPC's length-prefixed messages: one byte "compressed", four bytes length, big-endian, then the message.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "rpc/compression.h"
#include "rpc/message.h"
#include "rpc/output_queue.h"

namespace mesh::rpc {

inline constexpr std::size_t kPrefixBytes = 5;

// Bounds the memory of all messages that several readers receive at the same time.
class ReceiveBudget {
 public:
  explicit ReceiveBudget(std::size_t limit) : limit_(limit) {}
  [[nodiscard]] bool Take(std::size_t bytes) {
    if (used_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= limit_) return true;
    Give(bytes);
    return false;
  }
  void Give(std::size_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  [[nodiscard]] std::size_t limit() const { return limit_; }
  [[nodiscard]] std::size_t used() const { return used_.load(std::memory_order_relaxed); }

 private:
  const std::size_t limit_;
  std::atomic<std::size_t> used_{0};
};

// Cuts the received bytes of one stream into messages. A message is one contiguous allocation, which grows as bytes
// arrive: a length that lies costs no memory.
//
//   while (!bytes.empty()) {
//     Result<std::size_t> taken = reader.Consume(bytes);   // at most to the end of one message
//     bytes.remove_prefix(taken.value());
//     if (reader.ready()) Deliver(reader.Take());
//   }
class MessageReader {
 public:
  // `budget` may be null; it must outlive the reader.
  explicit MessageReader(std::size_t max_message_bytes, ReceiveBudget* budget = nullptr)
      : max_message_bytes_(max_message_bytes), budget_(budget) {}
  ~MessageReader();
  MessageReader(const MessageReader&) = delete;
  MessageReader& operator=(const MessageReader&) = delete;

  // grpc-encoding of the stream, known from its headers.
  void set_encoding(Encoding encoding) { encoding_ = encoding; }
  [[nodiscard]] Encoding encoding() const { return encoding_; }

  // Returns how many bytes it took. After an error the stream is lost.
  Result<std::size_t> Consume(std::string_view bytes);
  [[nodiscard]] bool ready() const { return prefix_filled_ == kPrefixBytes && filled_ == declared_; }
  // The ready message, decompressed.
  Result<Slice> Take();
  // Frees what was received of an unfinished message. The reader must not be fed any more.
  void Clear() { Release(); }

  // Part of a message has arrived: the stream must not end here.
  [[nodiscard]] bool mid_message() const { return prefix_filled_ > 0; }
  // Of the message that is being received, without its prefix; 0 while the prefix itself is incomplete.
  [[nodiscard]] std::size_t declared() const { return prefix_filled_ == kPrefixBytes ? declared_ : 0; }
  [[nodiscard]] std::size_t filled() const { return filled_; }
  // INTERNAL: "the stream ended after 7 of 20 bytes of a message".
  [[nodiscard]] Status Truncated() const;

 private:
  Status ParsePrefix();
  Status Reserve(std::size_t bytes);
  void Release();
  Slice Detach();

  const std::size_t max_message_bytes_;
  ReceiveBudget* const budget_;
  Encoding encoding_ = Encoding::kIdentity;
  unsigned char prefix_[kPrefixBytes] = {};
  std::size_t prefix_filled_ = 0;
  bool compressed_ = false;
  std::size_t declared_ = 0;
  std::size_t filled_ = 0;
  std::size_t capacity_ = 0;
  std::size_t budgeted_ = 0;
  char* buffer_ = nullptr;  // malloc, because realloc moves large blocks without copying them
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
