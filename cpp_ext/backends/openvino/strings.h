// Triton's BYTES tensors: each element is its length (4 bytes, little endian) and then its bytes. Pure.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "common/status.h"

namespace mesh::backend {

// Exactly `count` elements; INVALID_ARGUMENT where the bytes hold fewer, more, or a length beyond their end.
Status ParseStrings(const char* data, std::size_t size, std::size_t count, std::string* elements);

std::size_t SerializedSize(const std::string* elements, std::size_t count);

// Writes SerializedSize bytes.
void SerializeStrings(const std::string* elements, std::size_t count, char* target);

}  // namespace mesh::backend
