// Which side of a traffic split a request belongs to, and which endpoints are on it. Pure. The twin of
// serving/routing/traffic.py; tests/contract/routing/traffic.json holds the cases that both must pass.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status.h"
#include "routing/rendezvous.h"

namespace mesh::routing {

// TrafficSplit, TrafficSide, HeaderMatch, Shadow and TrafficRecord of proto/records.proto, where their fields are
// explained.
struct TrafficSide {
  std::string name;
  std::uint32_t weight = 0;
  std::string deployment;
  std::vector<std::int64_t> revisions;
};

struct HeaderMatch {
  std::string header;
  std::string value;
  std::string side;
};

struct TrafficSplit {
  std::string name;
  std::string deployment;
  std::string model;
  std::vector<TrafficSide> sides;
  std::string key;
  std::vector<HeaderMatch> matches;
  std::string shadow_deployment;  // "" is none
  double shadow_percent = 0.0;
};

struct TrafficRecord {
  std::string name_space;
  std::string name;
  std::string uid;
  std::int64_t generation = 0;
  std::int64_t revision = 0;
  std::int64_t version = 0;  // grows with every change within a generation
  std::vector<TrafficSplit> splits;
};

// From canonical JSON. INVALID_ARGUMENT names the field that is wrong.
Result<TrafficSplit> ParseTrafficSplit(const nlohmann::json& object);
// DATA_LOSS when it is no such record; `what` names the text in the message.
Result<TrafficRecord> ParseTrafficRecord(std::string_view text, std::string_view what);

// The first value of a metadata name; "" where it is not there.
using Lookup = std::function<std::string_view(std::string_view name)>;
// Doubles from 0 up to, not including, 1.
using Draw = std::function<double()>;
// Of each split that is about a request: its name and the chosen side's.
using Sides = std::vector<std::pair<std::string, std::string>>;

// Where an endpoint is with respect to the sides of a request; the worse the higher.
enum class Place : std::uint8_t {
  kOnSide,
  kSpare,  // on another side: asked while no endpoint of the request's own works
  kNever,
};

// One TrafficSplit, ready to choose.
class Split {
 public:
  explicit Split(TrafficSplit record);

  [[nodiscard]] const TrafficSplit& record() const { return record_; }
  // `deployment` is the one that the request names itself ("": none): a split of deployments has no say then.
  [[nodiscard]] bool IsAbout(std::string_view deployment, std::string_view model) const;
  // The side's name; "" where every weight is 0. `sequence` is the name of the request's sequence; "" is none.
  [[nodiscard]] std::string Choose(const Lookup& lookup, std::string_view sequence, const Draw& draw) const;
  // Where an endpoint of `deployment` and `revision` is for a request of side `chosen`.
  [[nodiscard]] Place PlaceOf(std::string_view chosen, std::string_view deployment, std::int64_t revision) const;

 private:
  [[nodiscard]] const TrafficSide* SideNamed(std::string_view name) const;
  [[nodiscard]] const TrafficSide* SideOf(std::string_view deployment, std::int64_t revision) const;

  TrafficSplit record_;
  std::vector<RendezvousMember> members_;  // of the sides, in their order
  std::vector<std::uint64_t> bounds_;      // their weights, added up
};

// All splits of an application.
class Traffic {
 public:
  Traffic() = default;
  explicit Traffic(std::vector<TrafficSplit> splits);

  [[nodiscard]] bool empty() const { return splits_.empty(); }
  // The sides of a request that names `deployment` ("": none) and `model`.
  [[nodiscard]] Sides SidesOf(std::string_view deployment, std::string_view model, const Lookup& lookup,
                              const Draw& draw, std::string_view sequence = {}) const;
  // The worst place of an endpoint in all splits. Splits that are not there any more do not count.
  [[nodiscard]] Place PlaceOf(const Sides& sides, std::string_view deployment, std::int64_t revision) const;
  // The deployment that gets a copy of this request; "" for none.
  [[nodiscard]] std::string ShadowOf(std::string_view deployment, std::string_view model, const Draw& draw) const;
  // Null where there is none of that name.
  [[nodiscard]] const Split* Find(std::string_view name) const;

 private:
  std::vector<Split> splits_;
};

}  // namespace mesh::routing
