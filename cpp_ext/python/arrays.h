// Tensors as numpy arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "rpc/message.h"
#include "triton/datatype.h"

namespace mesh::python {

// An array on its way to Triton: its bytes lie in `array` (fixed-size datatypes, not copied when it is C-contiguous and
// little-endian) or in `serialized` (BYTES).
struct ArrayInput {
  pybind11::array array;
  std::string serialized;
  triton::DataType type = TRITONSERVER_TYPE_INVALID;
  std::vector<std::int64_t> shape;

  [[nodiscard]] std::string_view bytes() const;
};

// Takes anything numpy can make an array of. Object, bytes and str arrays become BYTES (str as UTF-8). INVALID_ARGUMENT
// for dtypes that the protocol does not know. With the GIL.
Result<ArrayInput> ToInput(const std::string& name, const pybind11::object& value);

// An output as an array that owns `bytes`, without a copy; BYTES becomes an object array of bytes, BF16 an array of
// uint16. With the GIL.
Result<pybind11::object> ToArray(const std::string& name, triton::DataType type, const std::vector<std::int64_t>& shape,
                                 const rpc::Slice& bytes);

}  // namespace mesh::python
