#include "triton/trace.h"

#include <utility>

#include "triton/handles.h"
#include "triton/library.h"

namespace mesh::triton {
namespace {

using Listener = std::shared_ptr<TraceListener>;

// What is asked of a trace cannot fail for one that exists; its default stands for what a newer Triton may refuse.
template <typename Value, typename Function>
Value Ask(Function function, TRITONSERVER_InferenceTrace* trace, Value value) {
  static_cast<void>(ToStatus(function(trace, &value)));
  return value;
}

void OnActivity(TRITONSERVER_InferenceTrace* trace, TRITONSERVER_InferenceTraceActivity activity,
                std::uint64_t timestamp_ns, void* userp) {
  const char* name = GetApi().InferenceTraceActivityString(activity);
  (*static_cast<Listener*>(userp))
      ->OnActivity(TraceView(trace), activity == TRITONSERVER_TRACE_REQUEST_START, name, timestamp_ns);
}

void OnTensor(TRITONSERVER_InferenceTrace* trace, TRITONSERVER_InferenceTraceActivity activity, const char* name,
              TRITONSERVER_DataType datatype, const void* base, size_t byte_size, const int64_t* shape,
              uint64_t dim_count, TRITONSERVER_MemoryType memory_type, int64_t /*memory_type_id*/, void* userp) {
  if (memory_type == TRITONSERVER_MEMORY_GPU) return;  // not readable from here
  const TracedTensor tensor{name, datatype, base, byte_size, shape, dim_count};
  (*static_cast<Listener*>(userp))->OnTensor(TraceView(trace), GetApi().InferenceTraceActivityString(activity), tensor);
}

// Traces of what a request led to share its listener and end before it.
void OnRelease(TRITONSERVER_InferenceTrace* trace, void* userp) {
  const bool last = TraceView(trace).parent_id() == 0;
  static_cast<void>(ToStatus(GetApi().InferenceTraceDelete(trace)));
  if (last) delete static_cast<Listener*>(userp);
}

}  // namespace

std::uint64_t TraceView::id() const { return Ask<std::uint64_t>(GetApi().InferenceTraceId, raw_, 0); }
std::uint64_t TraceView::parent_id() const { return Ask<std::uint64_t>(GetApi().InferenceTraceParentId, raw_, 0); }
const char* TraceView::model() const { return Ask<const char*>(GetApi().InferenceTraceModelName, raw_, ""); }
std::int64_t TraceView::version() const { return Ask<std::int64_t>(GetApi().InferenceTraceModelVersion, raw_, -1); }
const char* TraceView::request_id() const { return Ask<const char*>(GetApi().InferenceTraceRequestId, raw_, ""); }

void TraceDeleter::operator()(TRITONSERVER_InferenceTrace* trace) const {
  static_cast<void>(ToStatus(GetApi().InferenceTraceDelete(trace)));
  delete listener;
}

Result<TraceHandle> NewTrace(std::uint32_t level, std::shared_ptr<TraceListener> listener) {
  auto held = std::make_unique<Listener>(std::move(listener));
  TRITONSERVER_InferenceTrace* raw = nullptr;
  const auto bits = static_cast<TRITONSERVER_InferenceTraceLevel>(level);
  Status status =
      ToStatus(GetApi().InferenceTraceTensorNew(&raw, bits, 0, OnActivity, OnTensor, OnRelease, held.get()));
  if (!status.ok()) return status;
  return TraceHandle(raw, TraceDeleter{held.release()});
}

}  // namespace mesh::triton
