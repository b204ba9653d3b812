#include "ingress/request_trace.h"

#include <array>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <type_traits>
#include <utility>

#include "common/json.h"
#include "ingress/failure.h"
#include "ingress/trace_settings.h"
#include "triton/datatype.h"

namespace mesh::ingress {
namespace {

using nlohmann::json;

std::string Timestamp(std::uint64_t id, const char* name, std::uint64_t ns) {
  std::array<char, 192> text{};
  std::snprintf(text.data(), text.size(), R"({"id":%llu,"timestamps":[{"name":"%s","ns":%llu}]})",
                static_cast<unsigned long long>(id), name, static_cast<unsigned long long>(ns));
  return text.data();
}

template <typename T>
std::string Numbers(const triton::TracedTensor& tensor) {
  std::string text;
  for (std::size_t offset = 0; offset + sizeof(T) <= tensor.size; offset += sizeof(T)) {
    T value;
    std::memcpy(&value, static_cast<const char*>(tensor.data) + offset, sizeof(T));
    if (offset != 0) text += ',';
    if constexpr (std::is_floating_point_v<T>) {
      std::array<char, 32> number{};
      std::snprintf(number.data(), number.size(), "%g", static_cast<double>(value));
      text += number.data();
    } else {
      text += std::to_string(value);
    }
  }
  return text;
}

std::string Strings(const triton::TracedTensor& tensor) {
  std::string text;
  std::string_view left(static_cast<const char*>(tensor.data), tensor.size);
  std::uint32_t length = 0;
  while (left.size() >= sizeof(length)) {
    std::memcpy(&length, left.data(), sizeof(length));
    left.remove_prefix(sizeof(length));
    if (length > left.size()) break;
    if (!text.empty()) text += ',';
    text.append("\"").append(left.substr(0, length)).append("\"");
    left.remove_prefix(length);
  }
  return text;
}

// The elements as `tritonserver` writes them; it leaves those of 16-bit floats out.
std::string Elements(const triton::TracedTensor& tensor) {
  switch (tensor.type) {
    case TRITONSERVER_TYPE_BOOL:
    case TRITONSERVER_TYPE_UINT8: return Numbers<std::uint8_t>(tensor);
    case TRITONSERVER_TYPE_UINT16: return Numbers<std::uint16_t>(tensor);
    case TRITONSERVER_TYPE_UINT32: return Numbers<std::uint32_t>(tensor);
    case TRITONSERVER_TYPE_UINT64: return Numbers<std::uint64_t>(tensor);
    case TRITONSERVER_TYPE_INT8: return Numbers<std::int8_t>(tensor);
    case TRITONSERVER_TYPE_INT16: return Numbers<std::int16_t>(tensor);
    case TRITONSERVER_TYPE_INT32: return Numbers<std::int32_t>(tensor);
    case TRITONSERVER_TYPE_INT64: return Numbers<std::int64_t>(tensor);
    case TRITONSERVER_TYPE_FP32: return Numbers<float>(tensor);
    case TRITONSERVER_TYPE_FP64: return Numbers<double>(tensor);
    case TRITONSERVER_TYPE_BYTES: return Strings(tensor);
    case TRITONSERVER_TYPE_FP16:
    case TRITONSERVER_TYPE_BF16:
    case TRITONSERVER_TYPE_INVALID: break;
  }
  return {};
}

}  // namespace

RequestTrace::RequestTrace(std::shared_ptr<TraceSampler> sampler) : sampler_(std::move(sampler)) {}

RequestTrace::~RequestTrace() {
  std::string all;
  for (const auto& [id, text] : texts_) {
    if (!all.empty()) all += ',';
    all += text;
  }
  sampler_->Collect(all);
}

void RequestTrace::Mark(const char* step, std::chrono::steady_clock::time_point when) {
  if (!sampler_->wants_timestamps()) return;
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(when.time_since_epoch()).count();
  Add(id_, Timestamp(id_, step, static_cast<std::uint64_t>(ns)));
}

void RequestTrace::OnActivity(const triton::TraceView& trace, bool begins, const char* activity, std::uint64_t ns) {
  const std::uint64_t id = trace.id();
  if (begins) {
    json about{{"id", id}, {"model_name", trace.model()}, {"model_version", trace.version()}};
    if (const std::string_view request = trace.request_id(); !request.empty()) about["request_id"] = request;
    if (const std::uint64_t parent = trace.parent_id(); parent != 0) about["parent_id"] = parent;
    if (!traceparent_.empty() && id == id_) about["traceparent"] = traceparent_;
    if (!tracestate_.empty() && id == id_) about["tracestate"] = tracestate_;
    Add(id, mesh::json::Dump(about));
  }
  Add(id, Timestamp(id, activity, ns));
}

void RequestTrace::OnTensor(const triton::TraceView& trace, const char* activity, const triton::TracedTensor& tensor) {
  std::string shape;
  for (std::size_t i = 0; i < tensor.dims; ++i) shape += (i == 0 ? "" : ",") + std::to_string(tensor.shape[i]);
  const json about{{"name", tensor.name},
                   {"data", Elements(tensor)},
                   {"shape", shape},
                   {"dtype", std::string(triton::DataTypeName(tensor.type))}};
  Add(trace.id(), mesh::json::Dump({{"id", trace.id()}, {"activity", activity}, {"tensor", about}}));
}

void RequestTrace::Add(std::uint64_t id, const std::string& text) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::string& texts = texts_[id];
  if (!texts.empty()) texts += ',';
  texts += text;
}

}  // namespace mesh::ingress
