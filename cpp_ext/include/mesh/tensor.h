// Tensors as they lie in memory: nothing here copies elements unless it says so.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "mesh/abi.h"
#include "mesh/error.h"

namespace mesh {
inline namespace v1 {

// Elements that somebody else owns.
template <typename T>
class Span {
 public:
  Span() = default;
  Span(T* data, std::size_t size) : data_(data), size_(size) {}
  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] T* begin() const { return data_; }
  [[nodiscard]] T* end() const { return data_ + size_; }
  T& operator[](std::size_t index) const { return data_[index]; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

// KServe's name of a C++ type.
template <typename T>
constexpr const char* DataTypeOf() {
  using Plain = std::remove_cv_t<T>;
  if constexpr (std::is_same_v<Plain, float>) return "FP32";
  if constexpr (std::is_same_v<Plain, double>) return "FP64";
  if constexpr (std::is_same_v<Plain, bool>) return "BOOL";
  if constexpr (std::is_integral_v<Plain> && std::is_signed_v<Plain>) {
    return sizeof(Plain) == 1 ? "INT8" : sizeof(Plain) == 2 ? "INT16" : sizeof(Plain) == 4 ? "INT32" : "INT64";
  }
  if constexpr (std::is_integral_v<Plain> && std::is_unsigned_v<Plain>) {
    return sizeof(Plain) == 1 ? "UINT8" : sizeof(Plain) == 2 ? "UINT16" : sizeof(Plain) == 4 ? "UINT32" : "UINT64";
  }
  static_assert(std::is_arithmetic_v<Plain>, "tensors hold numbers and truth values; BYTES are read by Texts()");
  return "";
}

using Shape = std::vector<std::int64_t>;

// The elements of a tensor, where they lie. Messages of gRPC may put them where a T must not lie; only then they are
// copied.
template <typename T>
class Elements {
 public:
  Elements(const void* data, std::size_t size) : data_(static_cast<const T*>(data)), size_(size) {
    if (reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0) return;
    copy_ = std::shared_ptr<T[]>(new T[size]);
    std::memcpy(copy_.get(), data, size * sizeof(T));
    data_ = copy_.get();
  }
  [[nodiscard]] const T* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] const T* begin() const { return data_; }
  [[nodiscard]] const T* end() const { return data_ + size_; }
  const T& operator[](std::size_t index) const { return data_[index]; }

 private:
  std::shared_ptr<T[]> copy_;
  const T* data_;
  std::size_t size_;
};

// One tensor of a request or of an answer; ends with whatever it came from.
class TensorView {
 public:
  explicit TensorView(const MeshTensor& raw) : raw_(&raw) {}

  [[nodiscard]] std::string_view name() const { return raw_->name; }
  [[nodiscard]] std::string_view datatype() const { return raw_->datatype; }
  [[nodiscard]] Span<const std::int64_t> shape() const { return {raw_->shape, raw_->dims}; }
  [[nodiscard]] std::string_view bytes() const { return {static_cast<const char*>(raw_->data), raw_->size}; }

  // The elements. INVALID_ARGUMENT when they are of another type.
  template <typename T>
  [[nodiscard]] Elements<T> Values() const {
    if (datatype() != DataTypeOf<T>()) {
      throw Error(Code::kInvalidArgument,
                  "tensor '" + std::string(name()) + "' has datatype " + raw_->datatype + ", not " + DataTypeOf<T>());
    }
    return Elements<T>(raw_->data, raw_->size / sizeof(T));
  }

  // The elements of a BYTES tensor, where they lie.
  [[nodiscard]] std::vector<std::string_view> Texts() const {
    if (datatype() != "BYTES") {
      throw Error(Code::kInvalidArgument,
                  "tensor '" + std::string(name()) + "' has datatype " + raw_->datatype + ", not BYTES");
    }
    std::vector<std::string_view> texts;
    for (std::string_view left = bytes(); left.size() >= sizeof(std::uint32_t);) {
      std::uint32_t size = 0;
      std::memcpy(&size, left.data(), sizeof size);
      left.remove_prefix(sizeof size);
      if (size > left.size()) throw Error(Code::kInvalidArgument, "tensor '" + std::string(name()) + "' is cut off");
      texts.push_back(left.substr(0, size));
      left.remove_prefix(size);
    }
    return texts;
  }

  [[nodiscard]] const MeshTensor& raw() const { return *raw_; }

 private:
  const MeshTensor* raw_;
};

// The bytes of a BYTES tensor with these elements.
template <typename Texts>
std::string PackTexts(const Texts& texts) {
  std::string packed;
  for (const std::string_view text : texts) {
    const auto size = static_cast<std::uint32_t>(text.size());
    packed.append(reinterpret_cast<const char*>(&size), sizeof size);
    packed.append(text);
  }
  return packed;
}

// A tensor that a model or another deployment is asked with. It refers to its elements: they must stay until the answer
// is there.
class Input {
 public:
  template <typename T>
  Input(std::string name, const T* data, Shape shape)
      : name_(std::move(name)),
        datatype_(DataTypeOf<T>()),
        shape_(std::move(shape)),
        data_(data),
        size_(Count(shape_) * sizeof(T)) {}
  template <typename T>
  Input(std::string name, const std::vector<T>& values, Shape shape)
      : Input(std::move(name), values.data(), std::move(shape)) {
    if (values.size() != Count(shape_)) {
      throw Error(Code::kInternal, "input '" + name_ + "' has " + std::to_string(values.size()) +
                                       " elements, its shape has " + std::to_string(Count(shape_)));
    }
  }
  Input(std::string name, std::string datatype, const void* data, std::size_t size, Shape shape)
      : name_(std::move(name)), datatype_(std::move(datatype)), shape_(std::move(shape)), data_(data), size_(size) {}
  // One that came with a request, or in an answer, under another name.
  Input(std::string name, const TensorView& tensor)
      : Input(std::move(name), std::string(tensor.datatype()), tensor.bytes().data(), tensor.bytes().size(),
              Shape(tensor.shape().begin(), tensor.shape().end())) {}

  [[nodiscard]] MeshTensor raw() const {
    return {name_.c_str(), datatype_.c_str(), shape_.data(), shape_.size(), data_, size_};
  }

  static std::size_t Count(const Shape& shape) {
    std::size_t count = 1;
    for (const std::int64_t dim : shape) count *= static_cast<std::size_t>(dim);
    return count;
  }

 private:
  std::string name_;
  std::string datatype_;
  Shape shape_;
  const void* data_;
  std::size_t size_;
};

}  // namespace v1
}  // namespace mesh
