// Counters, gauges and histograms with labels, written out in Prometheus' text format.
//
// Get an instrument once and keep the reference: it lives as long as its registry, and changing it is one atomic
// operation. Getting one takes a lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace mesh::metrics {

using Labels = std::vector<std::pair<std::string, std::string>>;

// Only grows.
class Counter {
 public:
  void Add(std::uint64_t amount = 1) { value_.fetch_add(amount, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

class Gauge {
 public:
  void Set(double value) { value_.store(value, std::memory_order_relaxed); }
  void Add(double amount);
  [[nodiscard]] double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

// Counts observations per bucket; `bounds` are the buckets' upper ends, rising, without +Inf.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);
  void Observe(double value);

  struct Snapshot {
    std::vector<double> bounds;
    std::vector<std::uint64_t> cumulative;  // one per bound, then +Inf
    double sum = 0;
  };
  [[nodiscard]] Snapshot snapshot() const;

 private:
  std::vector<double> bounds_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> counts_;
  std::atomic<double> sum_{0};
};

// 100 µs to 60 s in steps of about 2.5: fit for the seconds that requests take.
const std::vector<double>& LatencySeconds();

class Registry {
 public:
  // More series than this in one family share one with the label overflow="true", because labels may come from
  // outside (a model's name in a request) and memory must stay bounded.
  static constexpr std::size_t kMaxSeries = 1000;

  Registry() = default;
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  // The instrument of that name and these labels, made when first asked for. A name that is not valid or already has
  // another type is logged, and the instrument returned for it works but is not written out.
  Counter& GetCounter(const std::string& name, const std::string& help, const Labels& labels = {});
  Gauge& GetGauge(const std::string& name, const std::string& help, const Labels& labels = {});
  Histogram& GetHistogram(const std::string& name, const std::string& help, const Labels& labels = {},
                          const std::vector<double>& bounds = LatencySeconds());

  // A gauge or counter read when the text is made. `read` must stay callable until Remove(id) returned.
  std::uint64_t AddGauge(const std::string& name, const std::string& help, const Labels& labels,
                         std::function<double()> read);
  std::uint64_t AddCounter(const std::string& name, const std::string& help, const Labels& labels,
                           std::function<double()> read);
  void Remove(std::uint64_t id);

  // Prometheus' text format 0.0.4, families and series in order of their names.
  [[nodiscard]] std::string Text() const;

 private:
  enum class Type : std::uint8_t { kCounter, kGauge, kHistogram };
  struct Series {
    std::unique_ptr<Counter> counter;
    std::unique_ptr<Gauge> gauge;
    std::unique_ptr<Histogram> histogram;
    std::function<double()> read;
    std::uint64_t id = 0;  // of `read`
  };
  struct Family {
    Type type = Type::kCounter;
    std::string help;
    std::map<std::string, Series> series;  // by the labels as text
  };

  Series& Find(Type type, const std::string& name, const std::string& help, const Labels& labels);
  std::uint64_t AddCallback(Type type, const std::string& name, const std::string& help, const Labels& labels,
                            std::function<double()> read);
  static void AppendSeries(std::string& out, const std::string& name, const std::string& labels, const Series& series);

  mutable std::mutex mutex_;
  std::map<std::string, Family> families_;  // guarded by mutex_
  Series orphan_;                           // guarded by mutex_; the instruments of misused names
  std::uint64_t last_id_ = 0;               // guarded by mutex_
};

}  // namespace mesh::metrics
