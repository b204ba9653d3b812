#include "rpc/output_queue.h"

#include <algorithm>

namespace mesh::rpc {
namespace {

constexpr std::size_t kKeptCapacity = 64UL * 1024;

}  // namespace

void OutputQueue::Append(const Slice& slice, std::string_view part) {
  if (part.size() < kCopyBelow) {
    Append(part);
    return;
  }
  references_.push_back({flat_.size(), Slice(slice.owner(), part.data(), part.size())});
  size_ += part.size();
}

int OutputQueue::Describe(iovec* ranges, int capacity) const {
  int used = 0;
  std::size_t flat = flat_head_;
  for (std::size_t i = reference_head_; i < references_.size() && used + 1 < capacity; ++i) {
    const Reference& reference = references_[i];
    if (reference.flat_offset > flat) {
      ranges[used++] = {const_cast<char*>(flat_.data()) + flat, reference.flat_offset - flat};
      flat = reference.flat_offset;
    }
    ranges[used++] = {const_cast<char*>(reference.slice.data()), reference.slice.size()};
    if (i + 1 < references_.size() && used + 1 >= capacity) return used;
  }
  if (flat < flat_.size() && used < capacity) {
    ranges[used++] = {const_cast<char*>(flat_.data()) + flat, flat_.size() - flat};
  }
  return used;
}

void OutputQueue::Drop(std::size_t bytes) {
  size_ -= bytes;
  if (size_ == 0) {
    Clear();
    return;
  }
  while (bytes > 0) {
    const bool reference_left = reference_head_ < references_.size();
    const std::size_t flat_end = reference_left ? references_[reference_head_].flat_offset : flat_.size();
    const std::size_t from_flat = std::min(bytes, flat_end - flat_head_);
    flat_head_ += from_flat;
    bytes -= from_flat;
    if (bytes == 0 || !reference_left) return;
    Slice& slice = references_[reference_head_].slice;
    const std::size_t taken = std::min(bytes, slice.size());
    bytes -= taken;
    if (taken == slice.size()) {
      slice = Slice();
      ++reference_head_;
    } else {
      slice = Slice(slice.owner(), slice.data() + taken, slice.size() - taken);
    }
  }
}

void OutputQueue::Clear() {
  flat_.clear();
  if (flat_.capacity() > kKeptCapacity) flat_.shrink_to_fit();
  flat_head_ = 0;
  references_.clear();
  reference_head_ = 0;
  size_ = 0;
}

}  // namespace mesh::rpc
