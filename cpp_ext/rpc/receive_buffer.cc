#include "rpc/receive_buffer.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace mesh::rpc {
namespace {

// Small: a length that lies must not cost much.
constexpr std::size_t kFirstCapacity = 16UL * 1024;

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
  void* grown = std::realloc(data_, wanted);
  if (grown == nullptr) return Outcome::kNoMemory;
  data_ = static_cast<char*>(grown);
  capacity_ = wanted;
  return Outcome::kOk;
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
  if (size < capacity_) {
    // A block of this size that only shrinks stays where it is; should it fail, the larger one does.
    if (void* shrunk = std::realloc(data_, size)) data_ = static_cast<char*>(shrunk);
    if (counted_ > size) GiveBack(counted_ - size);
  }
  char* data = std::exchange(data_, nullptr);
  capacity_ = 0;
  if (counted_ <= ReceiveBudget::kUnbudgeted) {
    GiveBack(counted_);
    return {std::shared_ptr<const void>(data, [](const void* held) { std::free(const_cast<void*>(held)); }), data,
            size};
  }
  auto free_counted = [budget = budget_->shared_from_this(), counted = std::exchange(counted_, 0)](const void* held) {
    std::free(const_cast<void*>(held));
    budget->Give(counted);
  };
  return {std::shared_ptr<const void>(data, std::move(free_counted)), data, size};
}

void ReceiveBuffer::Release() {
  std::free(data_);
  data_ = nullptr;
  capacity_ = 0;
  GiveBack(counted_);
}

void ReceiveBuffer::GiveBack(std::size_t bytes) {
  if (bytes > 0) budget_->Give(bytes);
  counted_ -= bytes;
}

}  // namespace mesh::rpc
