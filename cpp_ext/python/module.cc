// serving._native.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "python/errors.h"
#include "python/triton_server.h"

namespace py = pybind11;

namespace {

using mesh::python::TritonServer;
using Settings = std::map<std::string, std::map<std::string, std::string>>;

std::unique_ptr<TritonServer> Make(std::string repository, std::string library, std::string backend_directory,
                                   std::vector<std::string> models, Settings backend_settings, int log_verbosity,
                                   std::string log_file, unsigned exit_timeout_s, unsigned model_load_threads) {
  mesh::triton::ServerOptions options;
  options.repository = std::move(repository);
  options.library = std::move(library);
  options.backend_directory = std::move(backend_directory);
  options.models = std::move(models);
  options.backend_settings = std::move(backend_settings);
  options.log_verbosity = log_verbosity;
  options.log_info = log_verbosity > 0;
  options.log_file = std::move(log_file);
  options.exit_timeout_s = exit_timeout_s;
  options.model_load_threads = model_load_threads;
  return std::make_unique<TritonServer>(std::move(options));
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "The C++ parts of the mesh that Python uses: NVIDIA Triton embedded in this process.";
  py::class_<TritonServer>(module, "TritonServer")
      .def(py::init(&Make), py::kw_only(), py::arg("repository"), py::arg("library") = "",
           py::arg("backend_directory") = "", py::arg("models") = std::vector<std::string>(),
           py::arg("backend_settings") = Settings(), py::arg("log_verbosity") = 0, py::arg("log_file") = "",
           py::arg("exit_timeout_s") = 30U, py::arg("model_load_threads") = 4U)
      .def("infer", &TritonServer::Infer, py::arg("model"), py::arg("inputs"), py::arg("version") = "",
           py::arg("outputs") = py::none(), py::arg("request_id") = "", py::arg("timeout_s") = py::none(),
           py::arg("parameters") = py::none())
      .def("index", &TritonServer::Index)
      .def("metadata", &TritonServer::Metadata)
      .def("model_metadata", &TritonServer::ModelMetadata, py::arg("model"), py::arg("version") = "")
      .def("model_config", &TritonServer::ModelConfig, py::arg("model"), py::arg("version") = "")
      .def("statistics", &TritonServer::Statistics, py::arg("model") = "", py::arg("version") = "")
      .def("is_ready", &TritonServer::IsReady, py::arg("model") = "", py::arg("version") = "")
      .def("metrics", &TritonServer::Metrics)
      .def_property_readonly("load_errors", &TritonServer::LoadErrors)
      .def("stop", &TritonServer::Stop)
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](TritonServer& self, const py::args&) { self.Stop(); });
}
