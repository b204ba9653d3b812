// Requests, inputs and responses of Triton as C++ objects that clean up after themselves.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backends/common/backend_api.h"
#include "common/status.h"

namespace mesh::backend {

// What one request sends for one input. Borrowed from the request: valid until it is released.
struct InputView {
  TRITONBACKEND_Input* handle = nullptr;
  const char* name = nullptr;
  TRITONSERVER_DataType datatype = TRITONSERVER_TYPE_INVALID;
  const std::int64_t* shape = nullptr;
  std::uint32_t dims_count = 0;
  std::uint64_t byte_size = 0;
  std::uint32_t buffer_count = 0;
};

// NOT_FOUND where the request does not have it.
Result<InputView> FindInput(TRITONBACKEND_Request* request, const std::string& name);

// The whole input where it lies in one piece of host memory; null where it is in several pieces.
Result<const void*> ContiguousInput(const InputView& input);

// Copies the pieces of an input one after another to `target`, which has `byte_size` bytes.
Status CopyInput(const InputView& input, void* target);

// The names of the outputs that the request asks for; Triton fills in all of the model's where it named none.
Result<std::vector<std::string>> RequestedOutputs(TRITONBACKEND_Request* request);

bool IsCancelled(TRITONBACKEND_Request* request);

// The one response of a request: sent once, or deleted.
class Response {
 public:
  Response() = default;
  ~Response();
  Response(Response&& other) noexcept;
  Response& operator=(Response&& other) noexcept;
  Response(const Response&) = delete;
  Response& operator=(const Response&) = delete;

  static Result<Response> New(TRITONBACKEND_Request* request);

  // A buffer of `byte_size` bytes of host memory for an output tensor; may be null for 0 bytes.
  Result<void*> Output(const std::string& name, TRITONSERVER_DataType datatype, const std::vector<std::int64_t>& shape,
                       std::uint64_t byte_size);

  Status SetParameter(const std::string& name, const std::string& value);
  Status SetParameter(const std::string& name, std::int64_t value);
  Status SetParameter(const std::string& name, bool value);

  // It was not made, or it was sent.
  [[nodiscard]] bool empty() const { return handle_ == nullptr; }
  // A response of several, not the last one.
  void SendPart();
  // The answer, or the error where `status` is one. Nothing happens when it was sent already.
  void Send(const Status& status);

 private:
  explicit Response(TRITONBACKEND_Response* handle) : handle_(handle) {}
  TRITONBACKEND_Response* handle_ = nullptr;
};

// Where the next value of a state is written. Borrowed from the request.
struct StateValue {
  TRITONBACKEND_State* handle = nullptr;
  void* buffer = nullptr;  // of host memory; may be null for 0 bytes
};

// `name` is that of the state's output. A second one of the same name replaces the first.
Result<StateValue> NewState(TRITONBACKEND_Request* request, const std::string& name, TRITONSERVER_DataType datatype,
                            const std::vector<std::int64_t>& shape, std::uint64_t byte_size);

// To be called when the value has been written, before the request is released: its sequence goes on with it.
Status KeepState(const StateValue& state);

// Nanoseconds of the clock that Triton's statistics use.
std::uint64_t SteadyNs();

// The four moments of one execution, in SteadyNs.
struct Timeline {
  std::uint64_t exec_start = 0;
  std::uint64_t compute_start = 0;
  std::uint64_t compute_end = 0;
  std::uint64_t exec_end = 0;
};

// Counts a request in Triton's statistics. Before it is released.
void Report(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request, const Status& status,
            const Timeline& times);

// Sends the response, or the error where `status` is one. A request whose response could not be made is ended without
// one, if need be: its client hears of it.
void Answer(TRITONBACKEND_Request* request, Response* response, const Status& status);

// Of a decoupled request: there are no further responses.
void EndResponses(TRITONBACKEND_Request* request);

// Reports a request's statistics, sends its response and releases it, in this order, so that a client that has its
// answer finds it counted. A request whose response could not be made is ended without one, if need be: its client
// hears of it.
void Finish(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request, Response* response,
            const Status& status, const Timeline& times);

// Counts one execution of `batch_size` rows.
void ReportBatch(TRITONBACKEND_ModelInstance* instance, std::uint64_t batch_size, const Timeline& times);

}  // namespace mesh::backend
