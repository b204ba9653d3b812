// Bytes on their way to one socket. Small pieces are copied into one flat buffer, large ones are kept as slices and
// handed to writev, so that big outputs are never copied in user space.
//
// Fill it, write it until it is empty, fill it again: the flat buffer is reused only when everything was written.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "rpc/message.h"

namespace mesh::rpc {

class OutputQueue {
 public:
  // From here on a slice is referenced instead of copied.
  static constexpr std::size_t kCopyBelow = 2048;

  void Append(std::string_view bytes) {
    flat_.append(bytes.data(), bytes.size());
    size_ += bytes.size();
  }
  // `part` is a range inside of `slice`.
  void Append(const Slice& slice, std::string_view part);

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  // Describes the first bytes in at most `capacity` ranges; returns how many it used.
  [[nodiscard]] int Describe(iovec* ranges, int capacity) const;
  // Forgets the first `bytes`.
  void Drop(std::size_t bytes);
  void Clear();

 private:
  struct Reference {
    std::size_t flat_offset;  // the referenced bytes come before flat_[flat_offset]
    Slice slice;
  };

  std::string flat_;
  std::size_t flat_head_ = 0;
  std::vector<Reference> references_;
  std::size_t reference_head_ = 0;
  std::size_t size_ = 0;
};

}  // namespace mesh::rpc
