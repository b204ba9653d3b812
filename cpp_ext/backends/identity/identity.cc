// A backend for tests and benchmarks: every output is its input, byte for byte.
//
// The i-th output of the model configuration answers with the i-th input, whatever the names and datatypes. The model
// parameter `execute_delay_ms` makes each execution (of one batch) take at least that long; `execute_gate` names a file
// without which it does not end, and `execute_error` is the error that each request is answered with. With `responses`
// each request is answered that many times, `response_interval_us` apart, which is for decoupled models. With
// `exit_at_load` the model ends the process that loads it.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "backends/common/api.h"
#include "backends/common/datatypes.h"
#include "backends/common/errors.h"
#include "backends/common/model.h"
#include "backends/common/model_config.h"
#include "backends/common/request.h"

namespace mesh::backend {
namespace {

constexpr std::int64_t kMostDelayMs = 3'600'000;
constexpr std::chrono::milliseconds kGatePoll(5);
constexpr std::int64_t kMostResponses = 1'000'000;

struct IdentityModel {
  std::int64_t max_batch_size = 0;
  std::chrono::milliseconds delay{0};
  std::string gate;   // empty: none
  std::string error;  // empty: none
  std::int64_t responses = 1;
  std::chrono::microseconds interval{0};        // before each response but the first
  std::map<std::string, std::string> input_of;  // by the output's name
};

Result<IdentityModel> MakeModel(const ModelConfig& config) {
  if (config.parameters.count("exit_at_load") > 0) std::_Exit(1);
  const std::string who = "model '" + config.name + "': ";
  if (config.inputs.empty() || config.inputs.size() != config.outputs.size()) {
    return Status(Code::kInvalidArgument, who + "config has " + std::to_string(config.inputs.size()) + " inputs and " +
                                              std::to_string(config.outputs.size()) +
                                              " outputs, identity needs as many outputs as inputs, at least one");
  }
  IdentityModel model;
  for (std::size_t index = 0; index < config.inputs.size(); ++index) {
    const TensorConfig& input = config.inputs[index];
    const TensorConfig& output = config.outputs[index];
    if (input.datatype != output.datatype) {
      return Status(Code::kInvalidArgument, who + "output '" + output.name + "' has datatype " +
                                                DataTypeName(output.datatype) + ", its input '" + input.name +
                                                "' has " + DataTypeName(input.datatype));
    }
    model.input_of[output.name] = input.name;
  }
  Result<std::int64_t> delay = IntegerParameter(config, "execute_delay_ms", 0, 0, kMostDelayMs);
  if (!delay.ok()) {
    return delay.status();
  }
  model.delay = std::chrono::milliseconds(delay.value());
  if (const auto gate = config.parameters.find("execute_gate"); gate != config.parameters.end()) {
    model.gate = gate->second;
  }
  if (const auto error = config.parameters.find("execute_error"); error != config.parameters.end()) {
    model.error = error->second;
  }
  Result<std::int64_t> responses = IntegerParameter(config, "responses", 1, 1, kMostResponses);
  if (!responses.ok()) {
    return responses.status();
  }
  model.responses = responses.value();
  Result<std::int64_t> interval = IntegerParameter(config, "response_interval_us", 0, 0, kMostDelayMs);
  if (!interval.ok()) {
    return interval.status();
  }
  model.interval = std::chrono::microseconds(interval.value());
  model.max_batch_size = config.max_batch_size;
  return model;
}

// Rows of the batch that the request brings; 1 for a model without batches.
std::uint64_t BatchSize(const IdentityModel& model, TRITONBACKEND_Request* request) {
  if (model.max_batch_size > 0) {
    for (const auto& [output, name] : model.input_of) {
      Result<InputView> input = FindInput(request, name);
      if (input.ok() && input.value().dims_count > 0) {
        return static_cast<std::uint64_t>(input.value().shape[0]);
      }
    }
  }
  return 1;
}

Status CopyThrough(const IdentityModel& model, TRITONBACKEND_Request* request, Response* response) {
  if (IsCancelled(request)) {
    return {Code::kCancelled, "the request was cancelled"};
  }
  if (!model.error.empty()) {
    return {Code::kInvalidArgument, model.error};
  }
  Result<std::vector<std::string>> outputs = RequestedOutputs(request);
  if (!outputs.ok()) {
    return outputs.status();
  }
  for (const std::string& name : outputs.value()) {
    const auto source = model.input_of.find(name);
    if (source == model.input_of.end()) {
      return {Code::kInvalidArgument, "output '" + name + "' is not in the model's configuration"};
    }
    Result<InputView> input = FindInput(request, source->second);
    if (!input.ok()) {
      if (input.status().code() == Code::kNotFound) {
        continue;  // an optional input that was not sent: its output is left out
      }
      return input.status();
    }
    const InputView& view = input.value();
    Result<void*> buffer = response->Output(
        name, view.datatype, std::vector<std::int64_t>(view.shape, view.shape + view.dims_count), view.byte_size);
    if (!buffer.ok()) {
      return buffer.status();
    }
    MESH_RETURN_IF_ERROR(CopyInput(view, buffer.value()));
  }
  return {};
}

// All responses but the last go out; the last one is left in `response`.
Status Answer(const IdentityModel& model, TRITONBACKEND_Request* request, Response* response) {
  for (std::int64_t left = model.responses; left > 0; --left) {
    Result<Response> next = Response::New(request);
    if (!next.ok()) {
      return next.status();
    }
    *response = std::move(next).value();
    MESH_RETURN_IF_ERROR(CopyThrough(model, request, response));
    if (left > 1) {
      response->SendPart();
      std::this_thread::sleep_for(model.interval);
    }
  }
  return {};
}

struct Pending {
  TRITONBACKEND_Request* request = nullptr;
  Response response;
  Status status;
};

void WaitForGate(const std::string& file) {
  std::error_code error;
  while (!file.empty() && !std::filesystem::exists(file, error)) {
    std::this_thread::sleep_for(kGatePoll);
  }
}

void Execute(const IdentityModel& model, TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests,
             std::uint32_t count) {
  Timeline times;
  times.exec_start = SteadyNs();
  std::vector<Pending> batch(count);
  std::uint64_t rows = 0;
  bool wanted = false;  // by a client that is still there
  for (std::uint32_t index = 0; index < count; ++index) {
    batch[index].request = requests[index];
    rows += BatchSize(model, requests[index]);
    wanted = wanted || !IsCancelled(requests[index]);
  }
  times.compute_start = SteadyNs();
  if (wanted && model.delay.count() > 0) {
    std::this_thread::sleep_for(model.delay);
  }
  WaitForGate(model.gate);
  times.compute_end = SteadyNs();
  for (Pending& item : batch) {
    item.status = Guarded([&]() -> Status { return Answer(model, item.request, &item.response); });
  }
  times.exec_end = SteadyNs();
  ReportBatch(instance, rows, times);
  for (Pending& item : batch) {
    Finish(instance, item.request, &item.response, item.status, times);
  }
}

Status Load(TRITONBACKEND_Model* handle) {
  Result<std::string> json = ModelConfigJson(handle);
  if (!json.ok()) {
    return json.status();
  }
  Result<ModelConfig> config = ParseModelConfig(json.value());
  if (!config.ok()) {
    return config.status();
  }
  Result<IdentityModel> model = MakeModel(config.value());
  if (!model.ok()) {
    return model.status();
  }
  auto state = std::make_unique<IdentityModel>(std::move(model).value());
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_ModelSetState(handle, state.get())));
  state.release();  // NOLINT(bugprone-unused-return-value): Triton holds it until ModelFinalize
  return {};
}

}  // namespace
}  // namespace mesh::backend

using mesh::Status;
using namespace mesh::backend;  // NOLINT(google-build-using-namespace): the entry points are all of the rest

TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* /*backend*/) {
  return ToTriton(BindApi(__builtin_return_address(0)));
}

TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return ToTriton(Guarded([&] { return Load(model); }));
}

TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  void* state = nullptr;
  TRITONSERVER_Error* error = api().TRITONBACKEND_ModelState(model, &state);
  TakeState<IdentityModel>(state).reset();
  return error;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
  TRITONBACKEND_Model* model = nullptr;
  void* state = nullptr;
  if (TRITONSERVER_Error* error = api().TRITONBACKEND_ModelInstanceModel(instance, &model)) {
    return error;
  }
  if (TRITONSERVER_Error* error = api().TRITONBACKEND_ModelState(model, &state)) {
    return error;
  }
  return api().TRITONBACKEND_ModelInstanceSetState(instance, state);
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance,
                                                       TRITONBACKEND_Request** requests, uint32_t request_count) {
  void* state = nullptr;
  if (TRITONSERVER_Error* error = api().TRITONBACKEND_ModelInstanceState(instance, &state)) {
    return error;
  }
  return ToTriton(Guarded([&] {
    Execute(*static_cast<IdentityModel*>(state), instance, requests, request_count);
    return Status();
  }));
}
