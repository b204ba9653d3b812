// What the choices know of an endpoint.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mesh::routing {

inline constexpr std::uint32_t kDefaultWeight = 100;

struct Load {
  double in_flight = 0.0;
  std::uint32_t weight = kDefaultWeight;  // 0 counts as 1
  double latency_s = 0.0;                 // 0.0 is unknown
};

// Work per weight with the next request on top.
inline double Cost(const Load& load) {
  return 1.0 + load.in_flight * kDefaultWeight / std::max<std::uint32_t>(load.weight, 1);
}

}  // namespace mesh::routing
