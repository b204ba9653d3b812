#include "routing/outlier_detector.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>
#include <utility>

namespace mesh::routing {

void OutlierDetector::Retain(const std::vector<Key>& keys) {
  const std::unordered_set<Key> wanted(keys.begin(), keys.end());
  for (auto entry = records_.begin(); entry != records_.end();) {
    if (wanted.count(entry->first) != 0) {
      ++entry;
      continue;
    }
    if (entry->second.state != State::kActive) --out_;
    entry = records_.erase(entry);
  }
  for (const Key key : keys) {
    const auto [entry, is_new] = records_.try_emplace(key);
    if (is_new) entry->second.order = named_++;
  }
}

void OutlierDetector::Succeeded(Key key, double now) {
  Record* record = Find(key);
  if (record == nullptr) return;
  record->in_a_row = 0;
  Count(*record, 0, now);
}

bool OutlierDetector::Failed(Key key, double now) {
  Record* record = Find(key);
  if (record == nullptr) return false;
  NoteFailure(*record, now);
  ++record->in_a_row;
  Count(*record, 1, now);
  const std::uint64_t requests = record->window.requests + record->window_before.requests;
  const std::uint64_t failures = record->window.failures + record->window_before.failures;
  const bool bad_rate = requests >= static_cast<std::uint64_t>(config_.rate_requests) &&
                        static_cast<double>(failures) >= config_.failure_rate * static_cast<double>(requests);
  return (record->in_a_row >= config_.consecutive_failures || bad_rate) && Eject(*record, now);
}

bool OutlierDetector::Lost(Key key, double now) {
  Record* record = Find(key);
  if (record == nullptr) return false;
  NoteFailure(*record, now);
  return Eject(*record, now);
}

bool OutlierDetector::IsActive(Key key) const {
  const auto found = records_.find(key);
  return found == records_.end() || found->second.state == State::kActive;
}

std::optional<double> OutlierDetector::next_probe_at() const {
  std::optional<double> first;
  for (const auto& [key, record] : records_) {
    if (record.state == State::kEjected) first = first ? std::min(*first, record.until) : record.until;
  }
  return first;
}

std::vector<OutlierDetector::Key> OutlierDetector::TakeDueProbes(double now) {
  std::vector<std::pair<std::uint64_t, Key>> due;
  for (auto& [key, record] : records_) {
    if (record.state != State::kEjected || record.until > now) continue;
    record.state = State::kProbing;
    due.emplace_back(record.order, key);
  }
  std::sort(due.begin(), due.end());
  std::vector<Key> keys;
  keys.reserve(due.size());
  for (const auto& entry : due) keys.push_back(entry.second);
  return keys;
}

void OutlierDetector::Probed(Key key, bool ok, double now) {
  Record* record = Find(key);
  if (record == nullptr || record->state != State::kProbing) return;
  if (ok) {
    --out_;
    record->state = State::kActive;
    record->in_a_row = 0;
    record->window = record->window_before = {};
  } else {
    record->last_failure = now;
    StartEjection(*record, now);
  }
}

OutlierDetector::Record* OutlierDetector::Find(Key key) {
  const auto found = records_.find(key);
  return found == records_.end() ? nullptr : &found->second;
}

bool OutlierDetector::Eject(Record& record, double now) {
  if (record.state != State::kActive || !MayEject()) return false;
  ++out_;
  StartEjection(record, now);
  return true;
}

void OutlierDetector::StartEjection(Record& record, double now) const {
  record.state = State::kEjected;
  record.until = now + std::min(std::ldexp(config_.base_s, std::min(record.ejections, 30)), config_.max_s);
  ++record.ejections;
}

bool OutlierDetector::MayEject() const {
  const std::size_t total = records_.size();
  const auto share = static_cast<std::size_t>(static_cast<double>(total) * config_.max_share);
  return total > 1 && out_ + 1 <= std::max<std::size_t>(1, share);
}

void OutlierDetector::NoteFailure(Record& record, double now) const {
  if (now - record.last_failure > config_.forgive_s) record.ejections = 0;
  record.last_failure = now;
}

void OutlierDetector::Count(Record& record, int failures, double now) const {
  const double half = config_.window_s / 2;
  const double age = now - record.window_start;
  if (age >= half) {
    record.window_before = age < 2 * half ? record.window : Counts{};
    record.window = {};
    record.window_start = now;
  }
  ++record.window.requests;
  record.window.failures += static_cast<std::uint64_t>(failures);
}

}  // namespace mesh::routing
