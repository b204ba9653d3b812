#include "backends/openvino/strings.h"

#include <cstdint>
#include <cstring>

namespace mesh::backend {
namespace {

using Length = std::uint32_t;

}  // namespace

Status ParseStrings(const char* data, std::size_t size, std::size_t count, std::string* elements) {
  std::size_t offset = 0;
  for (std::size_t index = 0; index < count; ++index) {
    Length length = 0;
    if (size - offset < sizeof(Length)) {
      return {Code::kInvalidArgument,
              "BYTES tensor ends after " + std::to_string(index) + " of " + std::to_string(count) + " elements"};
    }
    std::memcpy(&length, data + offset, sizeof(Length));
    offset += sizeof(Length);
    if (size - offset < length) {
      return {Code::kInvalidArgument, "element " + std::to_string(index) + " of a BYTES tensor says it has " +
                                          std::to_string(length) + " bytes, " + std::to_string(size - offset) +
                                          " are left"};
    }
    elements[index].assign(data + offset, length);
    offset += length;
  }
  if (offset != size) {
    return {Code::kInvalidArgument, "BYTES tensor has " + std::to_string(size - offset) + " bytes after its " +
                                        std::to_string(count) + " elements"};
  }
  return {};
}

std::size_t SerializedSize(const std::string* elements, std::size_t count) {
  std::size_t size = count * sizeof(Length);
  for (std::size_t index = 0; index < count; ++index) {
    size += elements[index].size();
  }
  return size;
}

void SerializeStrings(const std::string* elements, std::size_t count, char* target) {
  for (std::size_t index = 0; index < count; ++index) {
    const auto length = static_cast<Length>(elements[index].size());
    std::memcpy(target, &length, sizeof(Length));
    target += sizeof(Length);
    // NOLINTNEXTLINE(bugprone-not-null-terminated-result): the length stands before the bytes
    std::memcpy(target, elements[index].data(), length);
    target += length;
  }
}

}  // namespace mesh::backend
