#include "rpc/framing.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

namespace mesh::rpc {
namespace {

void WritePrefix(unsigned char* prefix, bool compressed, std::size_t bytes) {
  prefix[0] = compressed ? 1 : 0;
  prefix[1] = static_cast<unsigned char>(bytes >> 24);
  prefix[2] = static_cast<unsigned char>(bytes >> 16);
  prefix[3] = static_cast<unsigned char>(bytes >> 8);
  prefix[4] = static_cast<unsigned char>(bytes);
}

}  // namespace

Result<std::size_t> MessageReader::Consume(std::string_view bytes) {
  std::size_t taken = 0;
  if (prefix_filled_ < kPrefixBytes) {
    taken = std::min(bytes.size(), kPrefixBytes - prefix_filled_);
    std::memcpy(prefix_ + prefix_filled_, bytes.data(), taken);
    prefix_filled_ += taken;
    if (prefix_filled_ < kPrefixBytes) return taken;
    Status parsed = ParsePrefix();
    if (!parsed.ok()) return parsed;
    bytes.remove_prefix(taken);
  }
  const std::size_t part = std::min(bytes.size(), declared_ - filled_);
  if (part == 0) return taken;
  // At most twice of what has really arrived, and never more than declared.
  const ReceiveBuffer::Outcome grown = buffer_.Grow(filled_ + part, declared_);
  if (grown != ReceiveBuffer::Outcome::kOk) return NoRoom(grown);
  std::memcpy(buffer_.data() + filled_, bytes.data(), part);
  filled_ += part;
  // Whoever is slow with the rest holds our memory.
  if (filled_ < declared_ && !buffer_.Count()) return NoRoom(ReceiveBuffer::Outcome::kBudgetFull);
  return taken + part;
}

Status MessageReader::ParsePrefix() {
  declared_ =
      (std::size_t{prefix_[1]} << 24) | (std::size_t{prefix_[2]} << 16) | (std::size_t{prefix_[3]} << 8) | prefix_[4];
  filled_ = 0;
  if (prefix_[0] > 1) {
    return {Code::kInternal,
            "a message begins with the compression flag " + std::to_string(prefix_[0]) + ", only 0 and 1 exist"};
  }
  compressed_ = prefix_[0] == 1;
  if (compressed_ && encoding_ == Encoding::kIdentity) {
    return {Code::kInternal, "a message is flagged as compressed, but the call names no grpc-encoding"};
  }
  if (declared_ > max_message_bytes_) {
    return {Code::kResourceExhausted, "received message of " + std::to_string(declared_) +
                                          " bytes is larger than the limit of " + std::to_string(max_message_bytes_) +
                                          " bytes"};
  }
  return {};
}

Status MessageReader::NoRoom(ReceiveBuffer::Outcome outcome) const {
  return buffer_.Failure(outcome, "a message of " + std::to_string(declared_) + " bytes");
}

Slice MessageReader::TakePacked() {
  Slice message = buffer_.Detach(filled_);
  prefix_filled_ = 0;
  declared_ = filled_ = 0;
  return message;
}

Result<Slice> MessageReader::Take() {
  const bool packed = compressed_;
  Slice message = TakePacked();
  if (!packed) return message;
  return Decompress(encoding_, message.view(), max_message_bytes_);
}

Status MessageReader::Truncated() const {
  if (prefix_filled_ < kPrefixBytes) {
    return {Code::kInternal,
            "the stream ended inside of a message's prefix, after " + std::to_string(prefix_filled_) + " of 5 bytes"};
  }
  return {Code::kInternal, "the stream ended after " + std::to_string(filled_) + " of " + std::to_string(declared_) +
                               " bytes of a message"};
}

Status OutgoingMessages::Push(Message message, Encoding encoding) {
  if (encoding != Encoding::kIdentity && message.size() > 0) {
    Result<std::string> packed = Compress(encoding, message);
    if (!packed.ok()) return packed.status();
    message = Message(std::move(packed).value());
  }
  if (message.size() > std::numeric_limits<std::uint32_t>::max()) {
    return {Code::kResourceExhausted, "message of " + std::to_string(message.size()) +
                                          " bytes is larger than gRPC can express (4294967295 bytes)"};
  }
  PushSlices(message.slices(), message.size(), encoding != Encoding::kIdentity && message.size() > 0);
  return {};
}

void OutgoingMessages::PushSlices(const std::vector<Slice>& slices, std::size_t bytes, bool compressed) {
  Piece first{};
  WritePrefix(first.prefix, compressed, bytes);
  first.prefix_left = kPrefixBytes;
  if (!slices.empty()) first.slice = slices.front();
  pieces_.push_back(std::move(first));
  for (std::size_t i = 1; i < slices.size(); ++i) {
    pieces_.emplace_back();
    pieces_.back().slice = slices[i];
    pieces_.back().prefix_left = 0;
  }
  size_ += kPrefixBytes + bytes;
}

void OutgoingMessages::MoveTo(OutputQueue* out, std::size_t bytes) {
  bytes = std::min(bytes, size_);
  size_ -= bytes;
  while (bytes > 0) {
    Piece& piece = pieces_[head_];
    if (piece.prefix_left > 0) {
      const std::size_t part = std::min<std::size_t>(bytes, piece.prefix_left);
      out->Append({reinterpret_cast<const char*>(piece.prefix) + kPrefixBytes - piece.prefix_left, part});
      piece.prefix_left = static_cast<unsigned char>(piece.prefix_left - part);
      bytes -= part;
    }
    const std::size_t part = std::min(bytes, piece.slice.size() - head_offset_);
    if (part > 0) out->Append(piece.slice, piece.slice.view().substr(head_offset_, part));
    head_offset_ += part;
    bytes -= part;
    if (piece.prefix_left > 0 || head_offset_ < piece.slice.size()) break;
    piece.slice = Slice();
    head_offset_ = 0;
    ++head_;
  }
  if (size_ == 0) {
    Clear();
  } else {
    ForgetMoved();
  }
}

void OutgoingMessages::ForgetMoved() {
  // A stream may never be empty. Each piece that stays is moved here at most once per piece that went.
  constexpr std::size_t kTolerated = 32;
  if (head_ < kTolerated || head_ < pieces_.size() - head_) return;
  pieces_.erase(pieces_.begin(), pieces_.begin() + static_cast<std::ptrdiff_t>(head_));
  head_ = 0;
}

void OutgoingMessages::Clear() {
  pieces_.clear();
  head_ = head_offset_ = size_ = 0;
}

}  // namespace mesh::rpc
