// What a replica holds of a broker's items: those that run, and outcomes that are not stored yet. No I/O. The twin of
// serving/broker/puller/held.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "rpc/message.h"

namespace mesh::broker {

// An item, and which attempt at it.
struct ItemKey {
  std::string item;
  std::int64_t attempt = 0;

  bool operator<(const ItemKey& other) const { return std::tie(item, attempt) < std::tie(other.item, other.attempt); }
  bool operator==(const ItemKey& other) const { return item == other.item && attempt == other.attempt; }
};

// `<journal>.<number>` → the journal; empty for anything else.
[[nodiscard]] std::string_view JournalOf(std::string_view item);

// A piece of a result while it is made.
struct ResultPart {
  std::int64_t number = 0;
  std::string body;
};

// One attempt at an item. It is held until the broker says that its outcome is stored, or not wanted.
struct HeldItem {
  HeldItem(ItemKey of, double now, std::size_t bytes) : key(std::move(of)), arrived(now), size(bytes) {}

  // To be sent. One that finds no room is left out, and its number with it.
  void AddPart(std::string body);
  // Those that were not taken before.
  [[nodiscard]] std::vector<ResultPart> TakeParts();
  [[nodiscard]] bool runs() const { return !outcome.has_value(); }
  // There is something that no broker has heard.
  [[nodiscard]] bool has_news() const { return !parts_.empty() || (outcome.has_value() && !said_at.has_value()); }

  const ItemKey key;
  const double arrived;
  std::size_t size;                     // bytes that it takes: of its request, then of its outcome
  std::optional<rpc::Message> outcome;  // an encoded PullRequest
  std::optional<double> said_at;        // when the outcome was sent on the connection of now
  double ended_at = 0.0;
  bool unwanted = false;  // the broker has told it to stop
  bool has_turn = false;  // it is among those of which brokers may not have heard all

 private:
  std::vector<ResultPart> parts_;
  std::int64_t next_part_ = 0;
  std::size_t unsent_ = 0;
};

// By item and attempt.
class HeldItems {
 public:
  [[nodiscard]] std::shared_ptr<HeldItem> Find(const ItemKey& key) const;
  void Add(const std::shared_ptr<HeldItem>& held);
  // It runs no more, and this came of it.
  void Finish(HeldItem& held, rpc::Message outcome, double now);
  void Remove(const HeldItem& held);
  // Those of the same item with smaller numbers.
  [[nodiscard]] std::vector<std::shared_ptr<HeldItem>> EarlierAttempts(const ItemKey& key) const;

  [[nodiscard]] bool empty() const { return items_.empty(); }
  [[nodiscard]] std::size_t count() const { return items_.size(); }
  [[nodiscard]] int running() const { return running_; }
  // Bytes of requests that run and of outcomes that wait.
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  // In the order of their keys; a copy, as what is done with them may remove some.
  [[nodiscard]] std::vector<std::shared_ptr<HeldItem>> All() const;

 private:
  std::map<ItemKey, std::shared_ptr<HeldItem>> items_;
  int running_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace mesh::broker
