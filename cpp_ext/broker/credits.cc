#include "broker/credits.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace mesh::broker {
namespace {

const double kStep = std::sqrt(2.0);    // between two numbers that are compared
constexpr double kWorth = 0.5;          // a step by which throughput grows less than by this power is not kept
constexpr std::size_t kMost = 480;      // items on each side of a comparison
constexpr double kSure = 3.0;           // standard errors between what is measured and what decides
const double kChanged = std::log(1.5);  // between times at one number
constexpr int kRest = 4;                // measurements between trials; doubled each time that nothing was found
constexpr int kLongestRest = 16;
constexpr double kFull = 0.85;      // of the number that is tried ran on average: else too little to do
constexpr int kWarm = 3;            // times the number: ends after a change that do not count
constexpr std::size_t kLook = 16;   // items between looks at whether they are enough
constexpr std::size_t kGaps = 64;   // the latest of which the shortest counts
constexpr double kSpare = 0.25;     // of an item: a shorter way costs less than an item in the wrong place
constexpr double kInTime_s = 0.05;  // of work that may be on its way, whatever its number is
constexpr int kKnown = 512;         // the latest items whose times say how much work that is
constexpr std::size_t kKeptChanges = 2048;

// The average of the middle half.
double Middle(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t quarter = values.size() / 4;
  long double sum = 0;  // near to the exact sum that Python's `fmean` takes
  for (std::size_t i = quarter; i < values.size() - quarter; ++i) sum += values[i];
  return static_cast<double>(sum / static_cast<long double>(values.size() - 2 * quarter));
}

// Standard error of `Middle`.
double Error(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t quarter = values.size() / 4;
  const double root = std::sqrt(static_cast<double>(values.size()));
  return 1.2 * (values[values.size() - 1 - quarter] - values[quarter]) / 1.35 / root * (1 + 2 / root);
}

template <typename T>
void DropFirst(std::vector<T>* values, std::size_t count) {
  values->erase(values->begin(), values->begin() + static_cast<std::ptrdiff_t>(count));
}

}  // namespace

// ---------------------------------------------------------------- how many ran

void Busy::Change(int by, double now) {
  double area = 0.0;
  if (!times_.empty()) {
    now = std::max(now, times_.back());
    area = areas_.back() + running_ * (now - times_.back());
  }
  running_ = std::max(running_ + by, 0);
  times_.push_back(now);
  areas_.push_back(area);
  numbers_.push_back(running_);
  if (times_.size() > 2 * kKeptChanges) {
    DropFirst(&times_, kKeptChanges);
    DropFirst(&areas_, kKeptChanges);
    DropFirst(&numbers_, kKeptChanges);
  }
}

double Busy::Beside(double now, double seconds) const {
  const double since = now - seconds;
  const auto after = std::upper_bound(times_.begin(), times_.end(), since);
  if (after == times_.begin() || seconds <= 0) return 0.0;
  const auto index = static_cast<std::size_t>(after - times_.begin() - 1);
  const double before = areas_[index] + numbers_[index] * (since - times_[index]);
  return (areas_.back() - before) / seconds;
}

// ---------------------------------------------------------------- how many are asked for

Credits::Credits(int least, int most, int fixed)
    : least_(least), most_(most), fixed_(fixed), base_(least), tried_(least), next_rest_(kRest) {}

int Credits::wanted() const { return fixed_ > 0 ? fixed_ : std::min(tried_ + OnTheWay(), most_); }

void Credits::Started(double now) {
  busy_.Change(1, now);
  if (!asked_.empty()) {
    gaps_.push_back(std::max(now - asked_.front(), 0.0));
    asked_.pop_front();
    if (gaps_.size() > kGaps) gaps_.pop_front();
  }
  Ask(now);
}

void Credits::Ended(double now, double took_s) {
  busy_.Change(-1, now);
  if (fixed_ == 0 && took_s > 0 && !std::isinf(took_s)) Measure(now, took_s);
  Ask(now);
}

// As many as are wanted and not asked for. Those of which fewer are wanted meanwhile come nevertheless, where there is
// work.
void Credits::Ask(double now) {
  const int places = std::min(wanted() - running(), most_);
  while (static_cast<int>(asked_.size()) < places) asked_.push_back(now);
}

void Credits::Measure(double now, double took_s) {
  const double beside = busy_.Beside(now, took_s);
  if (beside <= 0) return;
  const double cost_s = took_s / beside;
  cost_s_ += cost_s_ > 0 ? (cost_s - cost_s_) / static_cast<double>(kGaps) : cost_s;
  Know(cost_s);
  Count(std::log(cost_s), now);
}

void Credits::Know(double cost_s) {
  constexpr int kLeftOut = static_cast<int>(kLook);  // first calls take long
  known_ = std::min(known_ + 1, kLeftOut + kKnown);
  if (known_ <= kLeftOut) return;
  const double share = 1.0 / (known_ - kLeftOut);
  mean_s_ += (cost_s - mean_s_) * share;
  mean_square_ += (cost_s * cost_s - mean_square_) * share;
}

int Credits::OnTheWay() const {
  if (cost_s_ <= 0 || gaps_.empty()) return 0;
  const double covered = *std::min_element(gaps_.begin(), gaps_.end()) / cost_s_;
  const double few = std::min<double>(std::ceil(std::max(covered - kSpare, 0.0)), base_);
  if (mean_square_ <= 0) return static_cast<int>(few);
  const double in_time = std::min({covered, kInTime_s * mean_s_ / mean_square_, static_cast<double>(most_)});
  return static_cast<int>(std::max(few, std::ceil(std::max(in_time - kSpare, 0.0))));
}

void Credits::Count(double cost, double now) {
  if (warm_ > 0) {
    --warm_;
    since_ = now;
    return;
  }
  costs_.push_back(cost);
  if (costs_.size() % kLook != 0) return;
  if (busy_.Beside(now, now - since_) < kFull * tried_) {
    GiveUp();
  } else if (costs_.size() >= kMost || Error(costs_) <= NeededError()) {
    Measured();
  }
}

double Credits::NeededError() const {
  const int other = tried_ != base_ ? base_ : Neighbour(Trial::kMore);
  return kWorth * std::abs(std::log(static_cast<double>(tried_) / other)) / kSure / std::sqrt(2.0);
}

// There is enough to decide.
void Credits::Measured() {
  std::vector<double> costs = std::exchange(costs_, {});
  if (trial_ == Trial::kNone) {
    if (!at_base_.empty() && std::abs(Middle(costs) - Middle(at_base_)) > kChanged) {
      rest_ = 0;
      next_rest_ = kRest;
    }
    at_base_ = std::move(costs);
    if (--rest_ <= 0) BeginTrial(next_trial_);
    return;
  }
  const double gain = Middle(at_base_) - Middle(costs);
  const double worth = kWorth * std::log(static_cast<double>(tried_) / base_);
  if (trial_ == Trial::kMore ? gain >= worth : gain > worth) {
    base_ = tried_;
    at_base_ = std::move(costs);
    next_rest_ = kRest;
    BeginTrial(trial_);
  } else {
    GiveUp();
  }
}

// Of this kind, or of the other one at the end of what is allowed.
void Credits::BeginTrial(Trial trial) {
  for (const Trial kind : {trial, trial == Trial::kMore ? Trial::kFewer : Trial::kMore}) {
    const int number = Neighbour(kind);
    if (number == base_) continue;
    next_trial_ = kind == Trial::kMore ? Trial::kFewer : Trial::kMore;
    return GoTo(number, kind);
  }
  GiveUp();
}

void Credits::GiveUp() {
  rest_ = next_rest_;
  next_rest_ = std::min(2 * next_rest_, kLongestRest);
  GoTo(base_, Trial::kNone);
}

void Credits::GoTo(int number, Trial trial) {
  tried_ = number;
  trial_ = trial;
  costs_.clear();
  warm_ = kWarm * wanted();
}

int Credits::Neighbour(Trial trial) const {
  if (trial == Trial::kMore) {
    return std::min(std::max(base_ + 1, static_cast<int>(std::nearbyint(base_ * kStep))), most_);
  }
  return std::max(std::min(base_ - 1, static_cast<int>(std::nearbyint(base_ / kStep))), least_);
}

}  // namespace mesh::broker
