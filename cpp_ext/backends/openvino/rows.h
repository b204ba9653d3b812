// Rows of a computed tensor on their way to one request's answer or state.
#pragma once

#include <functional>
#include <openvino/openvino.hpp>
#include <vector>

#include "backends/openvino/model.h"
#include "common/status.h"

namespace mesh::backend {

// Gives the memory for a tensor of these dims, which has so many bytes; may be null for 0.
using RowsTarget = std::function<Result<void*>(const std::vector<std::int64_t>& dims, std::size_t byte_size)>;

// Copies `count` rows of the batch, from row `first` on; a model that does not batch has one row, the whole tensor.
Status CopyRows(const Port& port, const ov::Tensor& tensor, bool batches, std::size_t first, std::size_t count,
                const RowsTarget& target);

}  // namespace mesh::backend
