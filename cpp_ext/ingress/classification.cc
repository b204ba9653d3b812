#include "ingress/classification.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <type_traits>

namespace mesh::ingress {
namespace {

// Values are read by memcpy: rows of a batch need not be aligned.
template <typename T>
std::vector<T> Row(const char* data, std::size_t elements) {
  std::vector<T> values(elements);
  if (elements > 0) std::memcpy(values.data(), data, elements * sizeof(T));
  return values;
}

void AppendElement(const std::string& text, std::string* bytes) {
  const auto size = static_cast<std::uint32_t>(text.size());
  char raw[sizeof(size)];
  std::memcpy(raw, &size, sizeof(size));
  bytes->append(raw, sizeof(size)).append(text);
}

template <typename T>
bool IsNumber(T value) {
  if constexpr (std::is_floating_point_v<T>) return !std::isnan(value);
  return true;
}

template <typename T>
void AppendTop(const triton::InferResponse& response, std::uint32_t index, const char* data, std::size_t elements,
               std::size_t count, std::string* bytes) {
  const std::vector<T> values = Row<T>(data, elements);
  std::vector<std::size_t> order(elements);
  std::iota(order.begin(), order.end(), 0);
  const auto best = order.begin() + static_cast<std::ptrdiff_t>(count);
  // Of equal values the lower index comes first, so that answers are the same every time; NaN comes last, because a
  // comparison that is no order would be undefined behaviour.
  std::partial_sort(order.begin(), best, order.end(), [&](std::size_t a, std::size_t b) {
    const bool a_is_number = IsNumber(values[a]);
    const bool b_is_number = IsNumber(values[b]);
    if (a_is_number != b_is_number) return a_is_number;
    return a_is_number && values[a] != values[b] ? values[a] > values[b] : a < b;
  });
  for (auto it = order.begin(); it != best; ++it) {
    std::string text = std::to_string(values[*it]) + ":" + std::to_string(*it);
    if (const char* label = response.Label(index, *it); label != nullptr) text.append(":").append(label);
    AppendElement(text, bytes);
  }
}

using Append = void (*)(const triton::InferResponse&, std::uint32_t, const char*, std::size_t, std::size_t,
                        std::string*);

Append AppendOf(triton::DataType type) {
  switch (type) {
    case TRITONSERVER_TYPE_UINT8: return AppendTop<std::uint8_t>;
    case TRITONSERVER_TYPE_UINT16: return AppendTop<std::uint16_t>;
    case TRITONSERVER_TYPE_UINT32: return AppendTop<std::uint32_t>;
    case TRITONSERVER_TYPE_UINT64: return AppendTop<std::uint64_t>;
    case TRITONSERVER_TYPE_INT8: return AppendTop<std::int8_t>;
    case TRITONSERVER_TYPE_INT16: return AppendTop<std::int16_t>;
    case TRITONSERVER_TYPE_INT32: return AppendTop<std::int32_t>;
    case TRITONSERVER_TYPE_INT64: return AppendTop<std::int64_t>;
    case TRITONSERVER_TYPE_FP32: return AppendTop<float>;
    case TRITONSERVER_TYPE_FP64: return AppendTop<double>;
    default: return nullptr;
  }
}

}  // namespace

Result<Classification> Classify(const triton::InferResponse& response, std::uint32_t index,
                                const triton::Output& output, std::uint32_t count, bool batched) {
  const Append append = AppendOf(output.type);
  if (append == nullptr) {
    return Status(Code::kInvalidArgument, "class result not available for output '" + std::string(output.name) +
                                              "' due to unsupported type '" + triton::DataTypeName(output.type) + "'");
  }
  const bool has_batch = batched && output.dims > 0;
  const auto elements = triton::ElementCount(output.shape + (has_batch ? 1 : 0), output.dims - (has_batch ? 1 : 0));
  const std::int64_t rows = has_batch ? output.shape[0] : 1;
  const std::size_t row_bytes = static_cast<std::size_t>(elements.value_or(0)) * triton::DataTypeSize(output.type);
  if (!elements.has_value() || row_bytes * static_cast<std::size_t>(rows) != output.size) {
    return Status(Code::kInternal, "output '" + std::string(output.name) + "' has another size than its shape says");
  }
  const std::size_t classes = std::min<std::size_t>(count, static_cast<std::size_t>(*elements));
  Classification result;
  if (has_batch) result.shape.push_back(rows);
  result.shape.push_back(static_cast<std::int64_t>(classes));
  for (std::int64_t row = 0; row < rows; ++row) {
    append(response, index, output.data + static_cast<std::size_t>(row) * row_bytes,
           static_cast<std::size_t>(*elements), classes, &result.bytes);
  }
  return result;
}

}  // namespace mesh::ingress
