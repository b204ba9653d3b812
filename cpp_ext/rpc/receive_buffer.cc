#include "rpc/receive_buffer.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "common/large_block.h"
#include "common/sanitizers.h"

namespace mesh::rpc {
namespace {

// Small: a length that lies must not cost much.
constexpr std::size_t kFirstCapacity = 16UL * 1024;

bool IsLarge(std::size_t capacity) { return kPoolsMemory && capacity >= kLargeBytes; }

void Free(char* data, std::size_t capacity) {
  if (IsLarge(capacity)) return FreeLarge({data, capacity});
  std::free(data);
}

}  // namespace

Status ReceiveBudget::Full(const std::string& what) const {
  return {Code::kResourceExhausted, "no room for " + what + ": received messages hold " + std::to_string(used()) +
                                        " of " + std::to_string(limit_) + " bytes; try again later"};
}

ReceiveBuffer::Outcome ReceiveBuffer::Grow(std::size_t bytes, std::size_t most) {
  if (bytes <= capacity_) return Outcome::kOk;
  const std::size_t wanted = std::min(most, std::max({bytes, capacity_ * 2, kFirstCapacity}));
  if (budget_ != nullptr && (wanted > ReceiveBudget::kUnbudgeted || counted_ > 0)) {
    if (!budget_->Take(wanted - counted_)) return Outcome::kBudgetFull;
    counted_ = wanted;
  }
  return Reallocate(wanted, most) ? Outcome::kOk : Outcome::kNoMemory;
}

bool ReceiveBuffer::Reallocate(std::size_t wanted, std::size_t most) {
  if (IsLarge(wanted) && !IsLarge(capacity_)) return TakeLarge(wanted, most);
  void* grown = IsLarge(wanted) ? ResizeLarge({data_, capacity_}, wanted) : std::realloc(data_, wanted);
  if (grown == nullptr) return false;
  data_ = static_cast<char*>(grown);
  capacity_ = wanted;
  return true;
}

// One that waits for its next use is taken as large as it is: its pages are there already. But a length that lies must
// not use the budget up with them.
bool ReceiveBuffer::TakeLarge(std::size_t wanted, std::size_t most) {
  LargeBlock block = AllocateLarge(wanted, most);
  if (block.data == nullptr) return false;
  if (capacity_ > 0) std::memcpy(block.data, data_, capacity_);
  std::free(data_);
  data_ = block.data;
  capacity_ = block.size;
  if (budget_ == nullptr || block.size == counted_) return true;
  if (budget_->TakeSpare(block.size - counted_)) {
    counted_ = block.size;
  } else {
    ShrinkTo(wanted);
  }
  return true;
}

// A block of malloc that only shrinks stays where it is; should it fail, the larger one does.
void ReceiveBuffer::ShrinkTo(std::size_t size) {
  if (IsLarge(capacity_)) {
    size = std::max(size, kLargeBytes);
    ResizeLarge({data_, capacity_}, size);
  } else if (void* shrunk = std::realloc(data_, size)) {
    data_ = static_cast<char*>(shrunk);
  }
  capacity_ = size;
  if (counted_ > size) GiveBack(counted_ - size);
}

bool ReceiveBuffer::Count() {
  if (budget_ == nullptr || counted_ >= capacity_) return true;
  if (!budget_->Take(capacity_ - counted_)) return false;
  counted_ = capacity_;
  return true;
}

Status ReceiveBuffer::Failure(Outcome outcome, const std::string& what) const {
  if (outcome == Outcome::kBudgetFull) return budget_->Full(what);
  return {Code::kResourceExhausted, "out of memory for " + what};
}

Slice ReceiveBuffer::Detach(std::size_t size) {
  if (size == 0) {
    Release();
    return {};
  }
  if (size < capacity_) ShrinkTo(size);
  char* data = std::exchange(data_, nullptr);
  const std::size_t capacity = std::exchange(capacity_, 0);
  if (counted_ <= ReceiveBudget::kUnbudgeted) {
    GiveBack(counted_);
    return {std::shared_ptr<const void>(data, [data, capacity](const void*) { Free(data, capacity); }), data, size};
  }
  auto free_counted = [budget = budget_->shared_from_this(), counted = std::exchange(counted_, 0), data,
                       capacity](const void*) {
    Free(data, capacity);
    budget->Give(counted);
  };
  return {std::shared_ptr<const void>(data, std::move(free_counted)), data, size};
}

void ReceiveBuffer::Release() {
  Free(data_, capacity_);
  data_ = nullptr;
  capacity_ = 0;
  GiveBack(counted_);
}

void ReceiveBuffer::GiveBack(std::size_t bytes) {
  if (bytes > 0) budget_->Give(bytes);
  counted_ -= bytes;
}

}  // namespace mesh::rpc
