// The classification extension: an output answered as its top classes instead of its values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "triton/infer.h"

namespace mesh::ingress {

struct Classification {
  std::vector<std::int64_t> shape;  // [batch,] classes
  std::string bytes;                // BYTES elements "value:index[:label]", best first
};

// The `count` largest values of output `index`, for each row of a batch (`batched`: the first dimension is one).
// INVALID_ARGUMENT for datatypes that have no order.
Result<Classification> Classify(const triton::InferResponse& response, std::uint32_t index,
                                const triton::Output& output, std::uint32_t count, bool batched);

}  // namespace mesh::ingress
