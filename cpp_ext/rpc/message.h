// Bytes of messages, shared without copies between sockets, handlers and Triton.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh::rpc {

// A range of bytes that keeps its memory alive. Cheap to copy.
class Slice {
 public:
  Slice() = default;
  Slice(std::shared_ptr<const void> owner, const char* data, std::size_t size)
      : owner_(std::move(owner)), data_(data), size_(size) {}
  static Slice Own(std::string text) {
    auto held = std::make_shared<const std::string>(std::move(text));
    return {held, held->data(), held->size()};
  }

  [[nodiscard]] const char* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] std::string_view view() const { return {data_, size_}; }
  [[nodiscard]] const std::shared_ptr<const void>& owner() const { return owner_; }

 private:
  std::shared_ptr<const void> owner_;
  const char* data_ = nullptr;
  std::size_t size_ = 0;
};

// One protobuf message on its way out: its encoded bytes as a chain of slices.
class Message {
 public:
  Message() = default;
  explicit Message(std::string encoded) { Append(std::move(encoded)); }

  void Append(Slice slice) {
    size_ += slice.size();
    if (!slice.empty()) slices_.push_back(std::move(slice));
  }
  void Append(std::string bytes) { Append(Slice::Own(std::move(bytes))); }

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] const std::vector<Slice>& slices() const { return slices_; }
  [[nodiscard]] std::string Flatten() const {
    std::string all;
    all.reserve(size_);
    for (const Slice& slice : slices_) all.append(slice.data(), slice.size());
    return all;
  }

 private:
  std::vector<Slice> slices_;
  std::size_t size_ = 0;
};

}  // namespace mesh::rpc
