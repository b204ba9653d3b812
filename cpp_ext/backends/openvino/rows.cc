#include "backends/openvino/rows.h"

#include <cstring>

#include "backends/openvino/strings.h"

namespace mesh::backend {

Status CopyRows(const Port& port, const ov::Tensor& tensor, bool batches, std::size_t first, std::size_t count,
                const RowsTarget& target) {
  const ov::Shape& shape = tensor.get_shape();
  std::vector<std::int64_t> dims(shape.begin(), shape.end());
  std::size_t row_elements = ov::shape_size(shape);
  if (batches) {
    row_elements = shape.front() == 0 ? 0 : row_elements / shape.front();
    dims.front() = static_cast<std::int64_t>(count);
  }
  const std::size_t elements = row_elements * count;
  const bool strings = port.datatype == TRITONSERVER_TYPE_BYTES;
  const std::string* texts = strings ? tensor.data<const std::string>() + first * row_elements : nullptr;
  const std::size_t size = strings ? SerializedSize(texts, elements) : elements * port.element.size();
  Result<void*> buffer = target(dims, size);
  if (!buffer.ok()) {
    return buffer.status();
  }
  if (strings) {
    SerializeStrings(texts, elements, static_cast<char*>(buffer.value()));
  } else if (size != 0) {
    const auto* source = static_cast<const char*>(tensor.data());
    std::memcpy(buffer.value(), source + first * row_elements * port.element.size(), size);
  }
  return {};
}

}  // namespace mesh::backend
