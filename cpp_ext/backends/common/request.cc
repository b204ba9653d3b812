#include "backends/common/request.h"

#include <chrono>
#include <cstring>
#include <utility>

#include "backends/common/api.h"
#include "backends/common/errors.h"

namespace mesh::backend {
namespace {

struct Piece {
  const void* data = nullptr;
  std::uint64_t byte_size = 0;
};

Result<Piece> InputPiece(const InputView& input, std::uint32_t index) {
  Piece piece;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  std::int64_t memory_id = 0;
  MESH_RETURN_IF_ERROR(FromTriton(
      api().TRITONBACKEND_InputBuffer(input.handle, index, &piece.data, &piece.byte_size, &memory, &memory_id)));
  if (memory == TRITONSERVER_MEMORY_GPU) {
    return Status(Code::kUnimplemented,
                  "input '" + std::string(input.name) + "' lies in GPU memory; this backend reads host memory only");
  }
  return piece;
}

}  // namespace

Result<InputView> FindInput(TRITONBACKEND_Request* request, const std::string& name) {
  InputView view;
  if (TRITONSERVER_Error* error = api().TRITONBACKEND_RequestInput(request, name.c_str(), &view.handle)) {
    return Status(Code::kNotFound, "input '" + name + "' is missing: " + FromTriton(error).message());
  }
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_InputProperties(
      view.handle, &view.name, &view.datatype, &view.shape, &view.dims_count, &view.byte_size, &view.buffer_count)));
  return view;
}

Result<const void*> ContiguousInput(const InputView& input) {
  if (input.buffer_count != 1) {
    return static_cast<const void*>(nullptr);
  }
  Result<Piece> piece = InputPiece(input, 0);
  if (!piece.ok()) {
    return piece.status();
  }
  return piece.value().byte_size == input.byte_size ? piece.value().data : nullptr;
}

Status CopyInput(const InputView& input, void* target) {
  std::uint64_t offset = 0;
  for (std::uint32_t index = 0; index < input.buffer_count; ++index) {
    Result<Piece> piece = InputPiece(input, index);
    if (!piece.ok()) {
      return piece.status();
    }
    const auto [data, size] = piece.value();
    if (size > input.byte_size - offset) {
      return {Code::kInternal, "input '" + std::string(input.name) + "' has more bytes than it declares"};
    }
    if (size != 0) {
      std::memcpy(static_cast<char*>(target) + offset, data, size);
    }
    offset += size;
  }
  if (offset != input.byte_size) {
    return {Code::kInvalidArgument, "input '" + std::string(input.name) + "' has " + std::to_string(offset) +
                                        " bytes, it declares " + std::to_string(input.byte_size)};
  }
  return {};
}

Result<std::vector<std::string>> RequestedOutputs(TRITONBACKEND_Request* request) {
  std::uint32_t count = 0;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_RequestOutputCount(request, &count)));
  std::vector<std::string> names;
  names.reserve(count);
  for (std::uint32_t index = 0; index < count; ++index) {
    const char* name = nullptr;
    MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_RequestOutputName(request, index, &name)));
    names.emplace_back(name);
  }
  return names;
}

bool IsCancelled(TRITONBACKEND_Request* request) {
  bool cancelled = false;
  return FromTriton(api().TRITONBACKEND_RequestIsCancelled(request, &cancelled)).ok() && cancelled;
}

Response::~Response() {
  if (handle_ != nullptr) {
    LogFailure("cannot delete a response", api().TRITONBACKEND_ResponseDelete(handle_));
  }
}

Response::Response(Response&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

Response& Response::operator=(Response&& other) noexcept {
  std::swap(handle_, other.handle_);
  return *this;
}

Result<Response> Response::New(TRITONBACKEND_Request* request) {
  TRITONBACKEND_Response* handle = nullptr;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_ResponseNew(&handle, request)));
  return Response(handle);
}

Result<void*> Response::Output(const std::string& name, TRITONSERVER_DataType datatype,
                               const std::vector<std::int64_t>& shape, std::uint64_t byte_size) {
  TRITONBACKEND_Output* output = nullptr;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_ResponseOutput(
      handle_, &output, name.c_str(), datatype, shape.data(), static_cast<std::uint32_t>(shape.size()))));
  void* buffer = nullptr;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  std::int64_t memory_id = 0;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_OutputBuffer(output, &buffer, byte_size, &memory, &memory_id)));
  if (memory == TRITONSERVER_MEMORY_GPU) {
    return Status(Code::kUnimplemented,
                  "output '" + name + "' was given GPU memory; this backend writes host memory only");
  }
  return buffer;
}

Status Response::SetParameter(const std::string& name, const std::string& value) {
  return FromTriton(api().TRITONBACKEND_ResponseSetStringParameter(handle_, name.c_str(), value.c_str()));
}

Status Response::SetParameter(const std::string& name, std::int64_t value) {
  return FromTriton(api().TRITONBACKEND_ResponseSetIntParameter(handle_, name.c_str(), value));
}

Status Response::SetParameter(const std::string& name, bool value) {
  return FromTriton(api().TRITONBACKEND_ResponseSetBoolParameter(handle_, name.c_str(), value));
}

void Response::Send(const Status& status) {
  if (TRITONBACKEND_Response* handle = std::exchange(handle_, nullptr)) {
    TRITONSERVER_Error* error = ToTriton(status);  // which stays ours
    LogFailure("cannot send a response",
               api().TRITONBACKEND_ResponseSend(handle, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
    if (error != nullptr) api().TRITONSERVER_ErrorDelete(error);
  }
}

void Response::SendPart() {
  if (TRITONBACKEND_Response* handle = std::exchange(handle_, nullptr)) {
    LogFailure("cannot send a response", api().TRITONBACKEND_ResponseSend(handle, 0, nullptr));
  }
}

Result<StateValue> NewState(TRITONBACKEND_Request* request, const std::string& name, TRITONSERVER_DataType datatype,
                            const std::vector<std::int64_t>& shape, std::uint64_t byte_size) {
  StateValue state;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_StateNew(
      &state.handle, request, name.c_str(), datatype, shape.data(), static_cast<std::uint32_t>(shape.size()))));
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  std::int64_t memory_id = 0;
  MESH_RETURN_IF_ERROR(
      FromTriton(api().TRITONBACKEND_StateBuffer(state.handle, &state.buffer, byte_size, &memory, &memory_id)));
  if (memory == TRITONSERVER_MEMORY_GPU) {
    return Status(Code::kUnimplemented,
                  "state '" + name + "' was given GPU memory; this backend writes host memory only");
  }
  return state;
}

Status KeepState(const StateValue& state) { return FromTriton(api().TRITONBACKEND_StateUpdate(state.handle)); }

std::uint64_t SteadyNs() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count());
}

void EndResponses(TRITONBACKEND_Request* request) {
  TRITONBACKEND_ResponseFactory* factory = nullptr;
  if (TRITONSERVER_Error* error = api().TRITONBACKEND_ResponseFactoryNew(&factory, request)) {
    LogFailure("cannot end the responses of a request", error);
    return;
  }
  LogFailure("cannot end the responses of a request",
             api().TRITONBACKEND_ResponseFactorySendFlags(factory, TRITONSERVER_RESPONSE_COMPLETE_FINAL));
  LogFailure("cannot delete a response factory", api().TRITONBACKEND_ResponseFactoryDelete(factory));
}

void Answer(TRITONBACKEND_Request* request, Response* response, const Status& status) {
  if (response->empty()) {
    Result<Response> again = Response::New(request);
    if (!again.ok()) {
      Log(TRITONSERVER_LOG_ERROR, "no response for a request that ends with: " + status.message());
      EndResponses(request);
      return;
    }
    *response = std::move(again).value();
  }
  response->Send(status);
}

void Report(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request, const Status& status,
            const Timeline& times) {
  LogFailure("cannot report the statistics of a request",
             api().TRITONBACKEND_ModelInstanceReportStatistics(instance, request, status.ok(), times.exec_start,
                                                               times.compute_start, times.compute_end, times.exec_end));
}

void Finish(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request, Response* response,
            const Status& status, const Timeline& times) {
  Report(instance, request, status, times);
  Answer(request, response, status);
  LogFailure("cannot release a request", api().TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
}

void ReportBatch(TRITONBACKEND_ModelInstance* instance, std::uint64_t batch_size, const Timeline& times) {
  LogFailure("cannot report the statistics of a batch",
             api().TRITONBACKEND_ModelInstanceReportBatchStatistics(
                 instance, batch_size, times.exec_start, times.compute_start, times.compute_end, times.exec_end));
}

}  // namespace mesh::backend
