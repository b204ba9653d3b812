#include "routing/least_latency.h"

namespace mesh::routing {

Expectation Expect(const Load& load) {
  if (load.latency_s > 0.0) return {1, Cost(load) * load.latency_s};
  return {load.in_flight < kMinObservations ? 0 : 2, load.in_flight};
}

}  // namespace mesh::routing
