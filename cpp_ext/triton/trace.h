// What Triton reports of a request on its way through the models.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "common/status.h"
#include "triton/c_api.h"
#include "triton/datatype.h"

namespace mesh::triton {

// The trace of one execution: of the request itself or, with a parent, of one that it led to (a step of an ensemble, a
// model that a model called). Ends with the callback that it was given to.
class TraceView {
 public:
  explicit TraceView(TRITONSERVER_InferenceTrace* raw) : raw_(raw) {}

  [[nodiscard]] std::uint64_t id() const;
  [[nodiscard]] std::uint64_t parent_id() const;  // 0: the request itself
  [[nodiscard]] const char* model() const;
  [[nodiscard]] std::int64_t version() const;
  [[nodiscard]] const char* request_id() const;

 private:
  TRITONSERVER_InferenceTrace* raw_;
};

struct TracedTensor {
  const char* name = "";
  DataType type = TRITONSERVER_TYPE_INVALID;
  const void* data = nullptr;  // in the memory of the host
  std::size_t size = 0;
  const std::int64_t* shape = nullptr;
  std::size_t dims = 0;
};

// Receives the reports, on several of Triton's threads at a time. Must not throw.
class TraceListener {
 public:
  TraceListener() = default;
  TraceListener(const TraceListener&) = delete;
  TraceListener& operator=(const TraceListener&) = delete;
  virtual ~TraceListener() = default;

  // `begins`: the first report of this execution. `activity` is Triton's name of what happened, `ns` the steady clock.
  virtual void OnActivity(const TraceView& trace, bool begins, const char* activity, std::uint64_t ns) = 0;
  virtual void OnTensor(const TraceView& trace, const char* activity, const TracedTensor& tensor) = 0;
};

// Owns a trace, and through it its listener, until Server::Infer has taken it.
struct TraceDeleter {
  std::shared_ptr<TraceListener>* listener = nullptr;
  void operator()(TRITONSERVER_InferenceTrace* trace) const;
};
using TraceHandle = std::unique_ptr<TRITONSERVER_InferenceTrace, TraceDeleter>;

// A trace for one request. `level` is made of bits of TRITONSERVER_InferenceTraceLevel. Triton keeps the listener until
// the request and all that it led to has ended. After LoadLibrary.
Result<TraceHandle> NewTrace(std::uint32_t level, std::shared_ptr<TraceListener> listener);

}  // namespace mesh::triton
