// Which endpoints are taken out for a while because they fail. The twin of serving/routing/outliers.py, which says why;
// tests/contract/routing runs both. Times are seconds on one clock.
//
//   active --failures--> ejected --time is over--> probing --probe succeeds--> active
//                           ^                         |
//                           +------probe fails--------+        each ejection in a row lasts longer
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

namespace mesh::routing {

// When an endpoint is ejected, for how long, and how many at once: `consecutive_failures` in a row, or a share of
// `failure_rate` of at least `rate_requests` requests in `window_s`. An ejection lasts `base_s`, doubled for each one
// before, up to `max_s`; after `forgive_s` without failures the count starts anew. Never more than `max_share` of the
// endpoints are ejected, but one of several always may be.
struct OutlierConfig {
  int consecutive_failures = 5;
  double failure_rate = 0.5;
  int rate_requests = 20;
  double window_s = 10.0;
  double base_s = 1.0;
  double max_s = 60.0;
  double forgive_s = 60.0;
  double max_share = 0.5;
};

// Keeps one record for each endpoint that Retain named. Not thread-safe.
class OutlierDetector {
 public:
  using Key = std::uint64_t;

  explicit OutlierDetector(OutlierConfig config = {}) : config_(config) {}

  // The endpoints that exist now: new ones start active, others are forgotten.
  void Retain(const std::vector<Key>& keys);
  // A request was answered, be it with an error of the request itself.
  void Succeeded(Key key, double now);
  // A request failed through the endpoint's fault. True when that ejected it.
  bool Failed(Key key, double now);
  // The connection broke or was refused, which needs no second proof. True when that ejected it.
  bool Lost(Key key, double now);
  // Whether it may get work; endpoints that nobody named are active.
  [[nodiscard]] bool IsActive(Key key) const;
  // How many get no work now.
  [[nodiscard]] std::size_t ejected() const { return out_; }
  // When the first ejection is over; nullopt when there is none.
  [[nodiscard]] std::optional<double> next_probe_at() const;
  // Endpoints whose ejection is over, in the order in which they were first named: each must be probed once, and Probed
  // be told.
  std::vector<Key> TakeDueProbes(double now);
  // The answer of a probe: back to work, or out again for longer.
  void Probed(Key key, bool ok, double now);

 private:
  enum class State : std::uint8_t {
    kActive,   // gets work
    kEjected,  // gets none until its time is over
    kProbing,  // gets none until a probe has answered
  };
  struct Counts {
    std::uint64_t requests = 0;
    std::uint64_t failures = 0;
  };
  struct Record {
    std::uint64_t order = 0;
    State state = State::kActive;
    int in_a_row = 0;
    Counts window;  // of this half window
    Counts window_before;
    double window_start = 0.0;
    double until = 0.0;  // of the ejection
    int ejections = 0;
    double last_failure = -1e18;
  };

  Record* Find(Key key);
  bool Eject(Record& record, double now);
  void StartEjection(Record& record, double now) const;
  [[nodiscard]] bool MayEject() const;
  void NoteFailure(Record& record, double now) const;
  void Count(Record& record, int failures, double now) const;

  OutlierConfig config_;
  std::unordered_map<Key, Record> records_;
  std::uint64_t named_ = 0;
  std::size_t out_ = 0;
};

}  // namespace mesh::routing
