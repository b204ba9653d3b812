#include "python/arrays.h"

#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <memory>

namespace mesh::python {
namespace {

namespace py = pybind11;

struct DtypeEntry {
  const char* numpy;
  triton::DataType type;
};

// BF16 comes last, so that uint16 is UINT16 on the way in; what a model wants decides (TritonServer::Infer).
constexpr std::array<DtypeEntry, 13> kDtypes{{{"bool", TRITONSERVER_TYPE_BOOL},
                                              {"uint8", TRITONSERVER_TYPE_UINT8},
                                              {"uint16", TRITONSERVER_TYPE_UINT16},
                                              {"uint32", TRITONSERVER_TYPE_UINT32},
                                              {"uint64", TRITONSERVER_TYPE_UINT64},
                                              {"int8", TRITONSERVER_TYPE_INT8},
                                              {"int16", TRITONSERVER_TYPE_INT16},
                                              {"int32", TRITONSERVER_TYPE_INT32},
                                              {"int64", TRITONSERVER_TYPE_INT64},
                                              {"float16", TRITONSERVER_TYPE_FP16},
                                              {"float32", TRITONSERVER_TYPE_FP32},
                                              {"float64", TRITONSERVER_TYPE_FP64},
                                              {"uint16", TRITONSERVER_TYPE_BF16}}};

triton::DataType TypeOf(const std::string& numpy) {
  if (numpy == "bfloat16") return TRITONSERVER_TYPE_BF16;  // of the package ml_dtypes
  for (const DtypeEntry& entry : kDtypes) {
    if (numpy == entry.numpy) return entry.type;
  }
  return TRITONSERVER_TYPE_INVALID;
}

const char* DtypeOf(triton::DataType type) {
  for (const DtypeEntry& entry : kDtypes) {
    if (entry.type == type) return entry.numpy;
  }
  return nullptr;
}

Status AppendElement(const std::string& name, const py::handle& element, std::string* serialized) {
  char* data = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_Check(element.ptr())) {
    PyBytes_AsStringAndSize(element.ptr(), &data, &size);
  } else if (PyUnicode_Check(element.ptr())) {
    data = const_cast<char*>(PyUnicode_AsUTF8AndSize(element.ptr(), &size));
    if (data == nullptr) throw py::error_already_set();
  } else {
    return {Code::kInvalidArgument, "input '" + name + "' holds a " +
                                        py::cast<std::string>(py::type::of(element).attr("__name__")) +
                                        "; object arrays must hold bytes or str"};
  }
  const auto length = static_cast<std::uint32_t>(size);
  if (static_cast<Py_ssize_t>(length) != size) {
    return {Code::kInvalidArgument, "input '" + name + "' holds an element of more than 4 GiB"};
  }
  char raw[sizeof(length)];
  std::memcpy(raw, &length, sizeof(length));
  serialized->append(raw, sizeof(length)).append(data, static_cast<std::size_t>(size));
  return {};
}

Status Serialize(const std::string& name, ArrayInput* input) {
  input->type = TRITONSERVER_TYPE_BYTES;
  const py::object flat = input->array.attr("astype")("object").attr("ravel")();
  for (const py::handle element : flat) {
    if (Status status = AppendElement(name, element, &input->serialized); !status.ok()) return status;
  }
  return {};
}

Result<py::object> ParseElements(const std::string& name, const std::vector<std::int64_t>& shape,
                                 const rpc::Slice& bytes) {
  py::list elements;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint32_t length = 0;
    const bool has_length = bytes.size() - at >= sizeof(length);
    if (has_length) std::memcpy(&length, bytes.data() + at, sizeof(length));
    at += sizeof(length);
    if (!has_length || length > bytes.size() - at) {
      return Status(Code::kInternal, "output '" + name + "' is not a sequence of BYTES elements");
    }
    elements.append(py::bytes(bytes.data() + at, length));
    at += length;
  }
  if (triton::ElementCount(shape.data(), shape.size()) != static_cast<std::int64_t>(elements.size())) {
    return Status(Code::kInternal, "output '" + name + "' has another number of elements than its shape says");
  }
  const py::module_ numpy = py::module_::import("numpy");
  py::object flat = numpy.attr("empty")(elements.size(), "object");
  // Element by element: an assignment of the whole list would look into the bytes.
  for (std::size_t i = 0; i < elements.size(); ++i) flat[py::int_(i)] = elements[i];
  return py::object(flat.attr("reshape")(py::cast(shape)));
}

}  // namespace

std::string_view ArrayInput::bytes() const {
  if (type == TRITONSERVER_TYPE_BYTES) return serialized;
  return {static_cast<const char*>(array.data()), static_cast<std::size_t>(array.nbytes())};
}

Result<ArrayInput> ToInput(const std::string& name, const py::object& value) {
  ArrayInput input;
  const py::module_ numpy = py::module_::import("numpy");
  input.array = numpy.attr("asarray")(value, py::arg("order") = "C");
  for (py::ssize_t i = 0; i < input.array.ndim(); ++i) input.shape.push_back(input.array.shape(i));
  const char kind = input.array.dtype().kind();
  if (kind == 'O' || kind == 'S' || kind == 'U') {
    if (Status status = Serialize(name, &input); !status.ok()) return status;
    return input;
  }
  const std::string dtype = py::cast<std::string>(input.array.dtype().attr("name"));
  input.type = TypeOf(dtype);
  if (input.type == TRITONSERVER_TYPE_INVALID) {
    return Status(Code::kInvalidArgument, "input '" + name + "' has dtype " + dtype + ", which no datatype stands for");
  }
  // A copy only where the bytes are in another order than the protocol's.
  if (input.array.dtype().byteorder() == '>') {
    input.array = input.array.attr("astype")(input.array.dtype().attr("newbyteorder")("<"));
  }
  return input;
}

Result<py::object> ToArray(const std::string& name, triton::DataType type, const std::vector<std::int64_t>& shape,
                           const rpc::Slice& bytes) {
  if (type == TRITONSERVER_TYPE_BYTES) return ParseElements(name, shape, bytes);
  const char* numpy = DtypeOf(type);
  const auto count = triton::ElementCount(shape.data(), shape.size());
  const bool fits = numpy != nullptr && count.has_value() &&
                    static_cast<std::size_t>(*count) * triton::DataTypeSize(type) == bytes.size();
  if (!fits) return Status(Code::kInternal, "output '" + name + "' has another size than its shape says");
  const py::dtype dtype(numpy);
  if (bytes.empty()) return py::object(py::array(dtype, shape));
  auto owner = std::make_unique<rpc::Slice>(bytes);
  const char* data = owner->data();
  const py::capsule base(owner.release(), [](void* held) { delete static_cast<rpc::Slice*>(held); });
  return py::object(py::array(dtype, shape, data, base));
}

}  // namespace mesh::python
