#include "python/errors.h"

namespace mesh::python {

namespace py = pybind11;

void Raise(const Status& status) {
  const py::object make = py::module_::import("serving.errors").attr("error_for_code");
  // A backend's message need not be UTF-8.
  const auto message = py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(status.message().data(), static_cast<Py_ssize_t>(status.message().size()), "replace"));
  const py::object error = make(static_cast<int>(status.code()), message);
  PyErr_SetObject(py::type::of(error).ptr(), error.ptr());
  throw py::error_already_set();
}

}  // namespace mesh::python
