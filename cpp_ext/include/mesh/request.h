// One request of a client and the answer to it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mesh/abi.h"
#include "mesh/call.h"
#include "mesh/error.h"
#include "mesh/tensor.h"

namespace mesh {
inline namespace v1 {

// The exchange that requests and answers share. Users see it only through these.
class Exchange {
 public:
  Exchange(const MeshHost* host, MeshExchange* raw, const MeshRequest* request)
      : host_(host), raw_(raw), request_(request) {}
  ~Exchange() { host_->release(raw_); }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  [[nodiscard]] const MeshHost* host() const { return host_; }
  [[nodiscard]] MeshExchange* raw() const { return raw_; }
  [[nodiscard]] const MeshRequest& request() const { return *request_; }

 private:
  const MeshHost* host_;
  MeshExchange* raw_;
  const MeshRequest* request_;
};

// The request. Cheap to copy; all of it stays as long as a copy is there, and the memory of its tensors, too. Reading
// it is safe on any thread.
class Request {
 public:
  explicit Request(std::shared_ptr<Exchange> exchange) : exchange_(std::move(exchange)) {}

  [[nodiscard]] std::string_view id() const { return raw().id; }
  [[nodiscard]] std::size_t input_count() const { return raw().input_count; }
  [[nodiscard]] TensorView Input(std::size_t index) const { return TensorView(raw().inputs[index]); }
  [[nodiscard]] bool Has(std::string_view name) const { return Find(name) != nullptr; }
  // INVALID_ARGUMENT when the client sent none of that name.
  [[nodiscard]] TensorView Input(std::string_view name) const {
    const MeshTensor* found = Find(name);
    if (found == nullptr) throw Error(Code::kInvalidArgument, "input '" + std::string(name) + "' is missing");
    return TensorView(*found);
  }
  // Whether the client wants this output.
  [[nodiscard]] bool Wants(std::string_view output) const {
    const char* const* const end = raw().outputs + raw().output_count;
    return std::find(raw().outputs, end, output) != end;
  }
  // A parameter of the request; null when it has none of that name.
  [[nodiscard]] const MeshValue* Parameter(std::string_view name) const {
    const MeshValue* const end = raw().parameters + raw().parameter_count;
    const MeshValue* found = std::find_if(raw().parameters, end, [&](const MeshValue& v) { return v.name == name; });
    return found == end ? nullptr : found;
  }
  // The first metadata (gRPC) or header (HTTP) of that name, which is in lower case.
  [[nodiscard]] std::optional<std::string_view> Metadata(std::string_view key) const {
    for (std::size_t index = 0; index < raw().metadata_count; ++index) {
      const MeshMetadata& entry = raw().metadata[index];
      if (std::string_view(entry.key.data, entry.key.size) == key) {
        return std::string_view(entry.value.data, entry.value.size);
      }
    }
    return std::nullopt;
  }
  // Until when the client waits; none: as long as it takes.
  [[nodiscard]] std::optional<std::chrono::steady_clock::time_point> deadline() const {
    if (raw().deadline_ns == INT64_MAX) return std::nullopt;
    return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(raw().deadline_ns));
  }
  // Nobody waits for the answer any more: the client has gone, or its deadline has passed.
  [[nodiscard]] bool cancelled() const { return exchange_->host()->cancelled(exchange_->raw()) != 0; }

  [[nodiscard]] const std::shared_ptr<Exchange>& exchange() const { return exchange_; }

 private:
  [[nodiscard]] const MeshRequest& raw() const { return exchange_->request(); }
  [[nodiscard]] const MeshTensor* Find(std::string_view name) const {
    const MeshTensor* const end = raw().inputs + raw().input_count;
    const MeshTensor* found = std::find_if(raw().inputs, end, [&](const MeshTensor& t) { return t.name == name; });
    return found == end ? nullptr : found;
  }

  std::shared_ptr<Exchange> exchange_;
};

// The answer, or several of a streamed deployment. On one thread at a time. One that goes away without Finish or Fail
// is answered INTERNAL.
class Answer {
 public:
  explicit Answer(std::shared_ptr<Exchange> exchange) : state_(std::make_shared<State>(std::move(exchange))) {}

  // The elements of an output, to be filled here: they go to the client from where they lie. Not initialised.
  template <typename T>
  Span<T> Output(const std::string& name, const Shape& shape) {
    const std::size_t count = Input::Count(shape);
    return {static_cast<T*>(Buffer(name, DataTypeOf<T>(), shape, count * sizeof(T))), count};
  }
  // As Output, from elements that are there already.
  template <typename T>
  void Add(const std::string& name, const Shape& shape, const T* values) {
    const Span<T> place = Output<T>(name, shape);
    if (!place.empty()) std::memcpy(place.data(), values, place.size() * sizeof(T));
  }
  // An output of BYTES.
  template <typename Texts>
  void AddTexts(const std::string& name, const Shape& shape, const Texts& texts) {
    const std::string packed = PackTexts(texts);
    void* place = Buffer(name, "BYTES", shape, packed.size());
    if (!packed.empty()) std::memcpy(place, packed.data(), packed.size());
  }
  // An output that a model or a deployment answered, under this name.
  void Add(const std::string& name, const TensorView& tensor) {
    void* place =
        Buffer(name, tensor.raw().datatype, {tensor.shape().begin(), tensor.shape().end()}, tensor.raw().size);
    if (tensor.raw().size != 0) std::memcpy(place, tensor.raw().data, tensor.raw().size);
  }
  // `size` bytes of an output of any datatype.
  void* Buffer(const std::string& name, const char* datatype, const Shape& shape, std::size_t size) {
    void* data = nullptr;
    std::string error;
    Check(host()->output(raw(), name.c_str(), datatype, shape.data(), shape.size(), size, &data, Into(&error)), error);
    return data;
  }

  void SetParameter(const std::string& name, const std::string& value) {
    MeshValue raw_value{name.c_str(), MESH_TEXT, 0, 0, 0.0, {value.data(), value.size()}};
    Set(raw_value);
  }
  void SetParameter(const std::string& name, std::int64_t value) {
    Set({name.c_str(), MESH_INTEGER, 0, value, 0.0, {}});
  }
  void SetParameter(const std::string& name, bool value) { Set({name.c_str(), MESH_BOOL, value ? 1 : 0, 0, 0.0, {}}); }

  // Of a streamed deployment: sends what was added as one answer of several, and waits while the client does not read.
  // Throws CANCELLED when nobody waits for answers any more.
  void Send() { Deliver(1); }
  // The same without waiting: whoever must not block looks at unread_bytes().
  void SendNow() { Deliver(0); }
  [[nodiscard]] std::size_t unread_bytes() const { return host()->unread_bytes(raw()); }

  // The end: what was added since the last Send goes out.
  void Finish() { state_->End(Code::kOk, ""); }
  void Fail(Code code, const std::string& message) { state_->End(code == Code::kOk ? Code::kInternal : code, message); }
  [[nodiscard]] bool finished() const { return state_->finished; }
  [[nodiscard]] const std::shared_ptr<Exchange>& exchange() const { return state_->exchange; }

 private:
  struct State {
    explicit State(std::shared_ptr<Exchange> shared) : exchange(std::move(shared)) {}
    ~State() { End(Code::kInternal, "the deployment dropped the request without an answer"); }
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    void End(Code code, const std::string& message) {
      if (finished) return;
      finished = true;
      exchange->host()->finish(exchange->raw(), static_cast<std::int32_t>(code), message.data(), message.size());
    }
    std::shared_ptr<Exchange> exchange;
    bool finished = false;
  };

  static MeshSink Into(std::string* text) {
    return {text, [](void* self, const char* data, std::size_t size) {
              static_cast<std::string*>(self)->append(data, size);
            }};
  }
  static void Check(std::int32_t code, const std::string& error) {
    if (code != 0) throw Error(static_cast<Code>(code), error);
  }
  void Set(const MeshValue& value) {
    std::string error;
    Check(host()->set_parameter(raw(), &value, Into(&error)), error);
  }
  void Deliver(std::int32_t wait) {
    std::string error;
    Check(host()->send(raw(), wait, Into(&error)), error);
  }
  [[nodiscard]] const MeshHost* host() const { return state_->exchange->host(); }
  [[nodiscard]] MeshExchange* raw() const {
    if (state_->finished) throw Error(Code::kInternal, "the request is answered already");
    return state_->exchange->raw();
  }

  std::shared_ptr<State> state_;
};

inline Reply Callee::Infer(const Request& request, std::vector<Input> inputs, CallOptions options) const {
  return Wait(request.exchange()->raw(), std::move(inputs), std::move(options));
}

inline void Callee::InferAsync(const Request& request, std::vector<Input> inputs, CallOptions options,
                               Done done) const {
  Ask(
      request.exchange()->raw(), std::move(inputs), std::move(options),
      [kept = request, done = std::move(done)](Outcome outcome, Reply reply) {
        done(std::move(outcome), std::move(reply));
      },
      false);
}

}  // namespace v1
}  // namespace mesh
