#include "broker/held.h"

#include <cstdint>
#include <utility>

namespace mesh::broker {
namespace {

constexpr std::size_t kUnsentParts = 1UL << 20;  // bytes of one item; the result has all of it again

}  // namespace

std::string_view JournalOf(std::string_view item) {
  const std::size_t dot = item.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : item.substr(0, dot);
}

void HeldItem::AddPart(std::string body) {
  const std::int64_t number = next_part_++;
  if (unsent_ + body.size() > kUnsentParts) return;
  unsent_ += body.size();
  parts_.push_back({number, std::move(body)});
}

std::vector<ResultPart> HeldItem::TakeParts() {
  unsent_ = 0;
  return std::exchange(parts_, {});
}

std::shared_ptr<HeldItem> HeldItems::Find(const ItemKey& key) const {
  const auto found = items_.find(key);
  return found == items_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<HeldItem>> HeldItems::EarlierAttempts(const ItemKey& key) const {
  std::vector<std::shared_ptr<HeldItem>> earlier;
  for (auto entry = items_.lower_bound({key.item, INT64_MIN}); entry != items_.end() && entry->first < key; ++entry) {
    earlier.push_back(entry->second);
  }
  return earlier;
}

void HeldItems::Add(const std::shared_ptr<HeldItem>& held) {
  if (!items_.emplace(held->key, held).second) return;
  ++running_;
  bytes_ += held->size;
}

void HeldItems::Finish(HeldItem& held, rpc::Message outcome, double now) {
  if (!held.runs()) return;
  --running_;
  bytes_ = bytes_ - held.size + outcome.size();
  held.size = outcome.size();
  held.ended_at = now;
  held.outcome = std::move(outcome);
}

void HeldItems::Remove(const HeldItem& held) {
  if (items_.erase(held.key) == 0) return;
  if (held.runs()) --running_;
  bytes_ -= held.size;
}

std::vector<std::shared_ptr<HeldItem>> HeldItems::All() const {
  std::vector<std::shared_ptr<HeldItem>> all;
  all.reserve(items_.size());
  for (const auto& [key, held] : items_) all.push_back(held);
  return all;
}

}  // namespace mesh::broker
