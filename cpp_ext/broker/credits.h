// How many items a replica asks for: as many as keep it busy. Pure; `now` is an argument, in seconds. The twin of
// serving/broker/puller/credits.py, which says how it is found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace mesh::broker {

// How many ran over the latest time.
class Busy {
 public:
  void Change(int by, double now);
  [[nodiscard]] int running() const { return running_; }
  // How many ran on average over the last `seconds`, which end with the last change; 0: that is too long ago.
  [[nodiscard]] double Beside(double now, double seconds) const;

 private:
  int running_ = 0;
  std::vector<double> times_;
  std::vector<double> areas_;  // number × seconds until then
  std::vector<int> numbers_;   // from then on
};

// Climbs to where throughput grows no more.
class Credits {
 public:
  // 0 < `least` <= `most`. `fixed`: always so many, and nothing is measured; 0: as found, within `least` and `most`.
  Credits(int least, int most, int fixed = 0);

  [[nodiscard]] int running() const { return busy_.running(); }
  // How many items may be out: those that run here and those that are on their way.
  [[nodiscard]] int wanted() const;

  // An item has come and begins.
  void Started(double now);
  // An item ended `took_s` seconds after its start, waiting inside of the replica included.
  void Ended(double now, double took_s);

 private:
  enum class Trial : std::uint8_t { kNone, kMore, kFewer };

  void Ask(double now);
  void Measure(double now, double took_s);
  void Know(double cost_s);
  [[nodiscard]] int OnTheWay() const;
  void Count(double cost, double now);
  [[nodiscard]] double NeededError() const;
  void Measured();
  void BeginTrial(Trial trial);
  void GiveUp();
  void GoTo(int number, Trial trial);
  [[nodiscard]] int Neighbour(Trial trial) const;

  const int least_;
  const int most_;
  const int fixed_;
  int base_;  // the number that was last found good
  int tried_;
  Trial trial_ = Trial::kNone;
  Trial next_trial_ = Trial::kMore;
  int rest_ = 0;  // measurements until the next trial
  int next_rest_;
  std::vector<double> costs_;    // logarithms of seconds of the replica for an item, at `tried_`
  std::vector<double> at_base_;  // those of the last measurement at `base_`
  double since_ = 0.0;           // when the measurement began
  int warm_ = 0;                 // ends until then
  double cost_s_ = 0.0;          // seconds of the replica for an item, the average of the latest ones
  int known_ = 0;                // items in the next two, and those before that are left out
  double mean_s_ = 0.0;          // as `cost_s_`, of many more
  double mean_square_ = 0.0;
  Busy busy_;
  std::deque<double> gaps_;
  std::deque<double> asked_;  // since when each that is on its way is asked for
};

}  // namespace mesh::broker
