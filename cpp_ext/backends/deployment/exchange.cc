#include "backends/deployment/exchange.h"

#include <cstring>
#include <memory>
#include <utility>

#include "backends/common/api.h"
#include "backends/common/datatypes.h"
#include "backends/common/errors.h"

using mesh::Code;
using mesh::Status;
using mesh::backend::api;
using mesh::backend::FromTriton;

namespace {

std::int32_t Told(const Status& status, MeshSink error) {
  if (!status.ok()) error.put(error.self, status.message().data(), status.message().size());
  return static_cast<std::int32_t>(status.code());
}

MeshValue TextValue(const char* name, std::string_view text) {
  return {name, MESH_TEXT, 0, 0, 0.0, {text.data(), text.size()}};
}

MeshValue ValueOf(const char* name, TRITONSERVER_ParameterType type, const void* value) {
  switch (type) {
    case TRITONSERVER_PARAMETER_BOOL: return {name, MESH_BOOL, *static_cast<const bool*>(value) ? 1 : 0, 0, 0.0, {}};
    case TRITONSERVER_PARAMETER_INT: return {name, MESH_INTEGER, 0, *static_cast<const std::int64_t*>(value), 0.0, {}};
    case TRITONSERVER_PARAMETER_DOUBLE: return {name, MESH_NUMBER, 0, 0, *static_cast<const double*>(value), {}};
    case TRITONSERVER_PARAMETER_STRING:
    case TRITONSERVER_PARAMETER_BYTES: break;
  }
  return TextValue(name, static_cast<const char*>(value));
}

}  // namespace

MeshBackendExchange::MeshBackendExchange(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request)
    : instance_(instance), request_(request) {
  times_.exec_start = times_.compute_start = mesh::backend::SteadyNs();
}

Status MeshBackendExchange::Read() {
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_RequestId(request_, &view_.id)));
  MESH_RETURN_IF_ERROR(ReadInputs());
  MESH_RETURN_IF_ERROR(ReadParameters());
  mesh::Result<std::vector<std::string>> outputs = mesh::backend::RequestedOutputs(request_);
  if (!outputs.ok()) return outputs.status();
  output_names_ = std::move(outputs).value();
  for (const std::string& name : output_names_) outputs_.push_back(name.c_str());
  view_.inputs = inputs_.data();
  view_.input_count = inputs_.size();
  view_.outputs = outputs_.data();
  view_.output_count = outputs_.size();
  view_.parameters = parameters_.data();
  view_.parameter_count = parameters_.size();
  return {};
}

Status MeshBackendExchange::ReadInputs() {
  std::uint32_t count = 0;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_RequestInputCount(request_, &count)));
  inputs_.reserve(count);
  pieces_.reserve(count);  // tensors point into its elements
  for (std::uint32_t index = 0; index < count; ++index) MESH_RETURN_IF_ERROR(ReadInput(index));
  return {};
}

Status MeshBackendExchange::ReadInput(std::uint32_t index) {
  mesh::backend::InputView view;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_RequestInputByIndex(request_, index, &view.handle)));
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_InputProperties(
      view.handle, &view.name, &view.datatype, &view.shape, &view.dims_count, &view.byte_size, &view.buffer_count)));
  mesh::Result<const void*> data = mesh::backend::ContiguousInput(view);
  if (!data.ok()) return data.status();
  const void* start = data.value();
  if (start == nullptr && view.byte_size != 0) {
    pieces_.emplace_back(view.byte_size, '\0');
    MESH_RETURN_IF_ERROR(mesh::backend::CopyInput(view, pieces_.back().data()));
    start = pieces_.back().data();
  }
  inputs_.push_back({view.name, mesh::backend::DataTypeName(view.datatype), view.shape, view.dims_count, start,
                     static_cast<std::size_t>(view.byte_size)});
  return {};
}

Status MeshBackendExchange::ReadParameters() {
  std::uint32_t count = 0;
  MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_RequestParameterCount(request_, &count)));
  for (std::uint32_t index = 0; index < count; ++index) {
    const char* name = nullptr;
    TRITONSERVER_ParameterType type = TRITONSERVER_PARAMETER_STRING;
    const void* value = nullptr;
    MESH_RETURN_IF_ERROR(FromTriton(api().TRITONBACKEND_RequestParameter(request_, index, &name, &type, &value)));
    parameters_.push_back(ValueOf(name, type, value));
  }
  return {};
}

Status MeshBackendExchange::NeedResponse() {
  if (!response_.empty()) return {};
  mesh::Result<mesh::backend::Response> made = mesh::backend::Response::New(request_);
  if (!made.ok()) return made.status();
  response_ = std::move(made).value();
  return {};
}

Status MeshBackendExchange::Output(const char* name, const char* datatype, const std::int64_t* shape, std::size_t dims,
                                   std::size_t size, void** data) {
  const TRITONSERVER_DataType type = mesh::backend::DataTypeFromName(datatype);
  if (type == TRITONSERVER_TYPE_INVALID) {
    return {Code::kInternal, std::string("output '") + name + "' has the datatype '" + datatype + "', which is none"};
  }
  MESH_RETURN_IF_ERROR(NeedResponse());
  mesh::Result<void*> made =
      response_.Output(name, type, std::vector<std::int64_t>(shape, shape + dims), static_cast<std::uint64_t>(size));
  if (!made.ok()) return made.status();
  *data = made.value();
  return {};
}

Status MeshBackendExchange::SetParameter(const MeshValue& value) {
  MESH_RETURN_IF_ERROR(NeedResponse());
  if (value.kind == MESH_INTEGER) return response_.SetParameter(value.name, value.integer);
  if (value.kind == MESH_BOOL) return response_.SetParameter(value.name, value.boolean != 0);
  return response_.SetParameter(value.name, std::string(value.text.data, value.text.size));
}

Status MeshBackendExchange::Send() {
  MESH_RETURN_IF_ERROR(NeedResponse());
  response_.SendPart();
  sent_ = true;
  return {};
}

void MeshBackendExchange::Finish(const Status& status) {
  times_.compute_end = times_.exec_end = mesh::backend::SteadyNs();
  mesh::backend::ReportBatch(instance_, 1, times_);
  mesh::backend::Report(instance_, request_, status, times_);
  if (status.ok() && response_.empty() && sent_) return mesh::backend::EndResponses(request_);
  mesh::backend::Answer(request_, &response_, status);
}

void MeshBackendExchange::Release() {
  const std::unique_ptr<MeshBackendExchange> self(this);
  mesh::backend::LogFailure("cannot release a request",
                            api().TRITONBACKEND_RequestRelease(request_, TRITONSERVER_REQUEST_RELEASE_ALL));
}

const MeshBackendCalls& MeshBackendExchange::Calls() {
  static const MeshBackendCalls calls{
      [](const MeshBackendExchange* exchange) -> std::int32_t { return exchange->cancelled() ? 1 : 0; },
      [](MeshBackendExchange* exchange, const char* name, const char* datatype, const std::int64_t* shape,
         std::size_t dims, std::size_t size, void** data, MeshSink error) {
        return Told(mesh::backend::Guarded([&] { return exchange->Output(name, datatype, shape, dims, size, data); }),
                    error);
      },
      [](MeshBackendExchange* exchange, const MeshValue* value, MeshSink error) {
        return Told(mesh::backend::Guarded([&] { return exchange->SetParameter(*value); }), error);
      },
      [](MeshBackendExchange* exchange, MeshSink error) {
        return Told(mesh::backend::Guarded([&] { return exchange->Send(); }), error);
      },
      [](MeshBackendExchange* exchange, std::int32_t code, const char* message, std::size_t size) {
        exchange->Finish(Status(static_cast<Code>(code), std::string(message, size)));
      },
      [](MeshBackendExchange* exchange) { exchange->Release(); },
  };
  return calls;
}
