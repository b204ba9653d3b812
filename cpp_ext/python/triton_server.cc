#include "python/triton_server.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>

#include "ingress/infer_message.h"
#include "ingress/request_builder.h"
#include "ingress/text.h"
#include "python/arrays.h"
#include "python/errors.h"
#include "python/waiting_call.h"

namespace mesh::python {
namespace {

namespace py = pybind11;

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kSignalCheck{100};  // how long Ctrl-C may go unnoticed

py::object FromJson(const std::string& text) { return py::module_::import("json").attr("loads")(text); }

std::int64_t Version(const std::string& text) { return ValueOrRaise(ingress::ParseVersion(text)); }

// Runs `call` without the GIL.
template <typename Call>
auto Unlocked(Call call) {
  const py::gil_scoped_release released;
  return call();
}

ingress::ParameterView ToParameter(const std::string& key, const py::handle& value, std::string* text) {
  using Kind = ingress::ParameterView::Kind;
  ingress::ParameterView parameter;
  parameter.key = key;
  if (py::isinstance<py::bool_>(value)) {
    parameter.kind = Kind::kBool;
    parameter.bool_value = value.cast<bool>();
  } else if (py::isinstance<py::int_>(value)) {
    parameter.kind = Kind::kInt64;
    parameter.int64_value = value.cast<std::int64_t>();
  } else if (py::isinstance<py::float_>(value)) {
    parameter.kind = Kind::kDouble;
    parameter.double_value = value.cast<double>();
  } else if (py::isinstance<py::str>(value)) {
    *text = value.cast<std::string>();
    parameter.kind = Kind::kString;
    parameter.string_value = *text;
  } else {
    Raise({Code::kInvalidArgument, "parameter '" + key + "' must be bool, int, float or str"});
  }
  return parameter;
}

// A request from Python's objects. The message's views point into the other members.
class RequestParts {
 public:
  RequestParts(const std::string& model, const std::string& version, const std::string& id) {
    message.model_name = model;
    message.model_version = version;
    message.id = id;
  }
  RequestParts(const RequestParts&) = delete;
  RequestParts& operator=(const RequestParts&) = delete;

  void AddInputs(const py::dict& inputs) {
    tensors_.reserve(inputs.size());
    names_.reserve(inputs.size());
    for (const auto& [key, value] : inputs) {
      names_.push_back(py::cast<std::string>(key));
      tensors_.push_back(ValueOrRaise(ToInput(names_.back(), py::reinterpret_borrow<py::object>(value))));
      arrays.push_back(tensors_.back().array);
    }
  }

  // uint16 stands for UINT16 and, because numpy has no such dtype, for BF16: the model decides.
  void ResolveBfloat16(const triton::Server& server, std::int64_t version) {
    const bool ambiguous = std::any_of(tensors_.begin(), tensors_.end(),
                                       [](const ArrayInput& t) { return t.type == TRITONSERVER_TYPE_UINT16; });
    if (!ambiguous) return;
    const std::string model(message.model_name);
    const auto metadata = nlohmann::json::parse(ValueOrRaise(server.ModelMetadata(model, version)));
    for (const nlohmann::json& input : metadata.value("inputs", nlohmann::json::array())) {
      const auto found = std::find(names_.begin(), names_.end(), input.value("name", ""));
      if (found == names_.end() || input.value("datatype", "") != "BF16") continue;
      ArrayInput& tensor = tensors_[static_cast<std::size_t>(found - names_.begin())];
      if (tensor.type == TRITONSERVER_TYPE_UINT16) tensor.type = TRITONSERVER_TYPE_BF16;
    }
  }

  void AddOutputs(const std::optional<std::vector<std::string>>& outputs) {
    if (!outputs.has_value()) return;
    for (const std::string& name : *outputs) {
      ingress::TensorView output;
      output.name = name;
      message.outputs.push_back(output);
    }
  }

  void AddParameters(const std::optional<py::dict>& parameters) {
    if (!parameters.has_value()) return;
    texts_.resize(parameters->size());
    keys_.reserve(parameters->size());
    for (const auto& [key, value] : *parameters) {
      keys_.push_back(py::cast<std::string>(key));
      message.parameters.push_back(ToParameter(keys_.back(), value, &texts_[keys_.size() - 1]));
    }
  }

  // Last: everything else is in place and does not move any more.
  void FinishMessage() {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      ingress::TensorView input;
      input.name = names_[i];
      input.datatype = triton::DataTypeName(tensors_[i].type);
      input.shape = {static_cast<std::uint32_t>(message.dims.size()),
                     static_cast<std::uint32_t>(tensors_[i].shape.size())};
      message.dims.insert(message.dims.end(), tensors_[i].shape.begin(), tensors_[i].shape.end());
      message.inputs.push_back(input);
      message.raw_inputs.push_back(tensors_[i].bytes());
    }
  }

  ingress::InferMessage message;
  std::vector<py::object> arrays;

 private:
  std::vector<std::string> names_;
  std::vector<ArrayInput> tensors_;
  std::vector<std::string> keys_;
  std::vector<std::string> texts_;
};

py::dict ToDict(const triton::InferResponse& response) {
  if (!response.present()) Raise({Code::kInternal, "Triton ended the request without a response"});
  RaiseUnlessOk(response.status());
  py::dict result;
  for (std::uint32_t i = 0; i < response.output_count(); ++i) {
    const triton::Output output = ValueOrRaise(response.GetOutput(i));
    const std::vector<std::int64_t> shape(output.shape, output.shape + output.dims);
    result[output.name] = ValueOrRaise(ToArray(output.name, output.type, shape, response.Share(output)));
  }
  return result;
}

}  // namespace

TritonServer::TritonServer(triton::ServerOptions options) {
  auto started = Unlocked([&] { return triton::Server::Start(std::move(options)); });
  server_ = ValueOrRaise(std::move(started));
  loads_ = server_->loads();
}

// NOLINTNEXTLINE(bugprone-exception-escape): pybind11 throws only where it has no state, and then nothing works
TritonServer::~TritonServer() {
  const py::gil_scoped_release released;
  server_.reset();  // the last reference stops Triton
}

std::shared_ptr<triton::Server> TritonServer::Running() const {
  if (server_ == nullptr) Raise({Code::kFailedPrecondition, "this TritonServer was stopped"});
  return server_;
}

void TritonServer::DropReleased() {
  const auto running = [](const Abandoned& entry) { return !entry.call->released(); };
  const auto released = std::stable_partition(abandoned_.begin(), abandoned_.end(), running);
  // Dropping an array may run any Python code, and with it another call of this: not while the list is being changed.
  const std::vector<Abandoned> dropped(std::make_move_iterator(released), std::make_move_iterator(abandoned_.end()));
  abandoned_.erase(released, abandoned_.end());
}

py::dict TritonServer::Infer(const std::string& model, const py::dict& inputs, const std::string& version,
                             const std::optional<std::vector<std::string>>& outputs, const std::string& request_id,
                             std::optional<double> timeout_s, const std::optional<py::dict>& parameters) {
  const std::shared_ptr<triton::Server> server = Running();
  DropReleased();
  if (timeout_s.has_value() && !(*timeout_s > 0)) {
    Raise({Code::kInvalidArgument, "timeout_s must be more than 0, got " + std::to_string(*timeout_s)});
  }
  const std::int64_t number = Version(version);
  const Status decoupled(Code::kUnimplemented, "model '" + model +
                                                   "' is decoupled (any number of responses per request), "
                                                   "which infer() does not support");
  if ((ValueOrRaise(server->TransactionFlags(model.c_str(), number)) & TRITONSERVER_TXN_DECOUPLED) != 0) {
    Raise(decoupled);
  }
  auto parts = std::make_shared<RequestParts>(model, version, request_id);
  parts->AddInputs(inputs);
  parts->ResolveBfloat16(*server, number);
  parts->AddOutputs(outputs);
  parts->AddParameters(parameters);
  parts->FinishMessage();
  triton::RequestHandle request = ValueOrRaise(server->NewRequest(model.c_str(), number));
  ingress::CStringArena arena;
  ingress::RequestExtras extras;
  const ingress::SharedMemory no_regions;  // arrays of this process need none
  const auto timeout_us = static_cast<std::uint64_t>(std::min(timeout_s.value_or(0) * 1e6, 9e18));
  RaiseUnlessOk(ingress::BuildRequest(parts->message, timeout_us, request.get(), no_regions, &arena, &extras));
  const auto call = std::make_shared<WaitingCall>();
  RaiseUnlessOk(Unlocked([&] { return server->Infer(std::move(request), call); }));
  // The serialized BYTES and the arrays must outlive a request that is given up.
  std::vector<py::object> kept{py::capsule(new std::shared_ptr<RequestParts>(parts), [](void* held) {
    delete static_cast<std::shared_ptr<RequestParts>*>(held);
  })};
  Wait(call, timeout_s, &kept);
  const triton::InferResponse response = call->TakeResponse();
  if (call->decoupled()) Raise(decoupled);  // it became so after it was asked
  return ToDict(response);
}

void TritonServer::Wait(const std::shared_ptr<WaitingCall>& call, std::optional<double> timeout_s,
                        std::vector<py::object>* arrays) {
  const auto started = steady_clock::now();
  const auto give_up = [&] {
    call->Cancel();
    call->Abandon();
    abandoned_.push_back({call, std::move(*arrays)});
  };
  while (true) {
    milliseconds slice = kSignalCheck;
    if (timeout_s.has_value()) {
      const double left = *timeout_s - std::chrono::duration<double>(steady_clock::now() - started).count();
      if (left <= 0) {
        give_up();
        Raise({Code::kDeadlineExceeded, "no answer within " + std::to_string(*timeout_s) + " s"});
      }
      slice = std::min(slice, milliseconds(static_cast<std::int64_t>(std::ceil(left * 1000))));
    }
    if (Unlocked([&] { return call->WaitFor(slice); })) return;
    if (PyErr_CheckSignals() != 0) {
      give_up();
      throw py::error_already_set();
    }
  }
}

py::object TritonServer::Index() const {
  const auto server = Running();
  return FromJson(ValueOrRaise(Unlocked([&] { return server->Index(); })));
}

py::object TritonServer::Metadata() const {
  const auto server = Running();
  return FromJson(ValueOrRaise(Unlocked([&] { return server->Metadata(); })));
}

py::object TritonServer::ModelMetadata(const std::string& model, const std::string& version) const {
  const auto server = Running();
  const std::int64_t number = Version(version);
  return FromJson(ValueOrRaise(Unlocked([&] { return server->ModelMetadata(model, number); })));
}

py::object TritonServer::ModelConfig(const std::string& model, const std::string& version) const {
  const auto server = Running();
  const std::int64_t number = Version(version);
  return FromJson(ValueOrRaise(Unlocked([&] { return server->ModelConfig(model, number); })));
}

py::object TritonServer::Statistics(const std::string& model, const std::string& version) const {
  const auto server = Running();
  const std::int64_t number = Version(version);
  return FromJson(ValueOrRaise(Unlocked([&] { return server->Statistics(model, number); })))["model_stats"];
}

bool TritonServer::IsReady(const std::string& model, const std::string& version) const {
  if (server_ == nullptr) return false;
  const auto server = server_;
  if (model.empty()) return Unlocked([&] { return server->IsReady(); });
  const std::int64_t number = Version(version);
  return ValueOrRaise(Unlocked([&] { return server->IsModelReady(model, number); }));
}

std::string TritonServer::Metrics() const {
  const auto server = Running();
  return ValueOrRaise(Unlocked([&] { return server->Metrics(); }));
}

py::dict TritonServer::LoadErrors() const {
  py::dict errors;
  for (const triton::ModelLoad& load : loads_) {
    if (!load.status.ok()) errors[py::str(load.name)] = load.status.message();
  }
  return errors;
}

void TritonServer::Stop() {
  if (server_ == nullptr) return;
  std::shared_ptr<triton::Server> server = std::move(server_);
  const Status status = Unlocked([&] {
    Status stopped = server->Stop();
    server.reset();
    return stopped;
  });
  DropReleased();
  RaiseUnlessOk(status);
}

}  // namespace mesh::python
