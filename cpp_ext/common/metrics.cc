#include "common/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "common/log.h"

namespace mesh::metrics {
namespace {

void AtomicAdd(std::atomic<double>& target, double amount) {
  double current = target.load(std::memory_order_relaxed);
  while (!target.compare_exchange_weak(current, current + amount, std::memory_order_relaxed)) {
  }
}

bool IsName(const std::string& name) {
  if (name.empty() || (name[0] >= '0' && name[0] <= '9')) return false;
  return std::all_of(name.begin(), name.end(), [](char letter) {
    return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') || (letter >= '0' && letter <= '9') ||
           letter == '_' || letter == ':';
  });
}

std::string Escape(const std::string& text, bool quotes) {
  std::string out;
  out.reserve(text.size());
  for (const char letter : text) {
    if (letter == '\\') {
      out += "\\\\";
    } else if (letter == '\n') {
      out += "\\n";
    } else if (letter == '"' && quotes) {
      out += "\\\"";
    } else {
      out += letter;
    }
  }
  return out;
}

// `model="digits",version="1"`: the inside of the braces, in order of the keys, so that equal labels are equal text.
std::string LabelText(Labels labels) {
  std::sort(labels.begin(), labels.end());
  std::string out;
  for (const auto& [key, value] : labels) {
    if (!out.empty()) out += ',';
    out += key + "=\"" + Escape(value, true) + '"';
  }
  return out;
}

std::string Number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  std::array<char, 40> digits{};
  std::snprintf(digits.data(), digits.size(), "%.15g", value);
  return digits.data();
}

void AppendLine(std::string& out, const std::string& name, const std::string& labels, const std::string& value) {
  out += name;
  if (!labels.empty()) out += '{' + labels + '}';
  out += ' ' + value + '\n';
}

}  // namespace

void Gauge::Add(double amount) { AtomicAdd(value_, amount); }

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(std::make_unique<std::atomic<std::uint64_t>[]>(bounds_.size() + 1)) {}

void Histogram::Observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<std::size_t>(bucket)].fetch_add(1, std::memory_order_relaxed);
  AtomicAdd(sum_, value);
}

Histogram::Snapshot Histogram::snapshot() const {
  Snapshot snapshot;
  snapshot.bounds = bounds_;
  std::uint64_t total = 0;
  for (std::size_t bucket = 0; bucket <= bounds_.size(); ++bucket) {
    total += counts_[bucket].load(std::memory_order_relaxed);
    snapshot.cumulative.push_back(total);
  }
  snapshot.sum = sum_.load(std::memory_order_relaxed);
  return snapshot;
}

const std::vector<double>& LatencySeconds() {
  static const auto* bounds = new std::vector<double>{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                      0.1,    0.25,    0.5,    1,     2.5,    5,     10,   30,    60};
  return *bounds;
}

Registry::Series& Registry::Find(Type type, const std::string& name, const std::string& help, const Labels& labels) {
  const bool valid =
      IsName(name) && std::all_of(labels.begin(), labels.end(), [](const auto& label) { return IsName(label.first); });
  auto found = families_.find(name);
  if (!valid || (found != families_.end() && found->second.type != type)) {
    log::Error("metric not written out: its name is not valid or has another type", {{"metric", name}});
    return orphan_;
  }
  if (found == families_.end()) {
    found = families_.emplace(name, Family()).first;
    found->second.type = type;
    found->second.help = help;
  }
  auto& series = found->second.series;
  const std::string text = LabelText(labels);
  const auto known = series.find(text);
  if (known != series.end()) return known->second;
  return series.size() < kMaxSeries ? series[text] : series[LabelText({{"overflow", "true"}})];
}

Counter& Registry::GetCounter(const std::string& name, const std::string& help, const Labels& labels) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Series& series = Find(Type::kCounter, name, help, labels);
  if (!series.counter) series.counter = std::make_unique<Counter>();
  return *series.counter;
}

Gauge& Registry::GetGauge(const std::string& name, const std::string& help, const Labels& labels) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Series& series = Find(Type::kGauge, name, help, labels);
  if (!series.gauge) series.gauge = std::make_unique<Gauge>();
  return *series.gauge;
}

Histogram& Registry::GetHistogram(const std::string& name, const std::string& help, const Labels& labels,
                                  const std::vector<double>& bounds) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Series& series = Find(Type::kHistogram, name, help, labels);
  if (!series.histogram) series.histogram = std::make_unique<Histogram>(bounds);
  return *series.histogram;
}

std::uint64_t Registry::AddCallback(Type type, const std::string& name, const std::string& help, const Labels& labels,
                                    std::function<double()> read) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Series& series = Find(type, name, help, labels);
  series.read = std::move(read);
  series.id = ++last_id_;
  return series.id;
}

std::uint64_t Registry::AddGauge(const std::string& name, const std::string& help, const Labels& labels,
                                 std::function<double()> read) {
  return AddCallback(Type::kGauge, name, help, labels, std::move(read));
}

std::uint64_t Registry::AddCounter(const std::string& name, const std::string& help, const Labels& labels,
                                   std::function<double()> read) {
  return AddCallback(Type::kCounter, name, help, labels, std::move(read));
}

void Registry::Remove(std::uint64_t id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [name, family] : families_) {
    for (auto entry = family.series.begin(); entry != family.series.end(); ++entry) {
      if (!entry->second.read || entry->second.id != id) continue;
      family.series.erase(entry);
      return;
    }
  }
}

void Registry::AppendSeries(std::string& out, const std::string& name, const std::string& labels,
                            const Series& series) {
  if (series.read) {
    AppendLine(out, name, labels, Number(series.read()));
  } else if (series.counter) {
    AppendLine(out, name, labels, std::to_string(series.counter->value()));
  } else if (series.gauge) {
    AppendLine(out, name, labels, Number(series.gauge->value()));
  } else if (series.histogram) {
    const Histogram::Snapshot snapshot = series.histogram->snapshot();
    const std::string prefix = labels.empty() ? "" : labels + ',';
    for (std::size_t bucket = 0; bucket < snapshot.cumulative.size(); ++bucket) {
      const std::string bound = bucket < snapshot.bounds.size() ? Number(snapshot.bounds[bucket]) : "+Inf";
      std::string bucket_labels = prefix;
      bucket_labels.append("le=\"").append(bound).append("\"");
      AppendLine(out, name + "_bucket", bucket_labels, std::to_string(snapshot.cumulative[bucket]));
    }
    AppendLine(out, name + "_sum", labels, Number(snapshot.sum));
    AppendLine(out, name + "_count", labels, std::to_string(snapshot.cumulative.back()));
  }
}

std::string Registry::Text() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::string out;
  for (const auto& [name, family] : families_) {
    if (family.series.empty()) continue;
    const char* type = family.type == Type::kCounter ? "counter" : family.type == Type::kGauge ? "gauge" : "histogram";
    out += "# HELP " + name + ' ' + Escape(family.help, false) + '\n';
    out += "# TYPE " + name + ' ' + type + '\n';
    for (const auto& [labels, series] : family.series) AppendSeries(out, name, labels, series);
  }
  return out;
}

}  // namespace mesh::metrics
