// The embedded Triton as a Python object.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "triton/server.h"

namespace mesh::python {

class WaitingCall;

// All methods are called with the GIL and give it up while they wait. Errors are raised as serving.errors.
class TritonServer {
 public:
  explicit TritonServer(triton::ServerOptions options);
  ~TritonServer();  // NOLINT(bugprone-exception-escape): see there
  TritonServer(const TritonServer&) = delete;
  TritonServer& operator=(const TritonServer&) = delete;

  pybind11::dict Infer(const std::string& model, const pybind11::dict& inputs, const std::string& version,
                       const std::optional<std::vector<std::string>>& outputs, const std::string& request_id,
                       std::optional<double> timeout_s, const std::optional<pybind11::dict>& parameters);
  [[nodiscard]] pybind11::object Index() const;
  [[nodiscard]] pybind11::object Metadata() const;
  [[nodiscard]] pybind11::object ModelMetadata(const std::string& model, const std::string& version) const;
  [[nodiscard]] pybind11::object ModelConfig(const std::string& model, const std::string& version) const;
  [[nodiscard]] pybind11::object Statistics(const std::string& model, const std::string& version) const;
  [[nodiscard]] bool IsReady(const std::string& model, const std::string& version) const;
  [[nodiscard]] std::string Metrics() const;
  [[nodiscard]] pybind11::dict LoadErrors() const;
  void Stop();

 private:
  // Arrays that a request which timed out may still read.
  struct Abandoned {
    std::shared_ptr<WaitingCall> call;
    std::vector<pybind11::object> arrays;
  };

  [[nodiscard]] std::shared_ptr<triton::Server> Running() const;
  void DropReleased();
  void Wait(const std::shared_ptr<WaitingCall>& call, std::optional<double> timeout_s,
            std::vector<pybind11::object>* arrays);

  std::shared_ptr<triton::Server> server_;  // null once stopped; changed and read with the GIL
  std::vector<triton::ModelLoad> loads_;
  std::vector<Abandoned> abandoned_;  // with the GIL
};

}  // namespace mesh::python
