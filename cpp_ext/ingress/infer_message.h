// inference.ModelInferRequest as views into its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace mesh::ingress {

// An inference.InferParameter with its key.
struct ParameterView {
  enum class Kind : std::uint8_t { kNone, kBool, kInt64, kString, kDouble, kUint64 };
  std::string_view key;
  Kind kind = Kind::kNone;
  bool bool_value = false;
  std::int64_t int64_value = 0;
  std::string_view string_value;
  double double_value = 0;
  std::uint64_t uint64_value = 0;
};

// A range of one of the flat lists below.
struct Range {
  std::uint32_t begin = 0;
  std::uint32_t count = 0;
};

// An input, or a requested output (which has neither datatype, shape nor contents).
struct TensorView {
  std::string_view name;
  std::string_view datatype;
  Range shape;       // of `dims`
  Range parameters;  // of `tensor_parameters`
  bool has_contents = false;
  std::string_view contents;  // an encoded inference.InferTensorContents
};

// Reused from request to request: the lists keep their memory.
struct InferMessage {
  std::string_view model_name;
  std::string_view model_version;
  std::string_view id;
  std::vector<ParameterView> parameters;
  std::vector<TensorView> inputs;
  std::vector<TensorView> outputs;
  std::vector<std::string_view> raw_inputs;
  std::vector<std::int64_t> dims;
  std::vector<ParameterView> tensor_parameters;
  std::size_t parameter_entries = 0;  // that were read, repetitions of a key included

  void Clear();
};

// Fills a cleared `message` with views into `bytes`. Bytes that are no such message are INTERNAL, the code by which
// every gRPC server says so; text with NUL bytes and lists beyond all measure are INVALID_ARGUMENT. Unknown fields are
// skipped; of a key or field given twice the last one counts.
Status ParseInferMessage(std::string_view bytes, InferMessage* message);

// name (1) and version (2), which ModelReady, ModelMetadata, ModelConfig and ModelStatistics have in common.
struct ModelMessage {
  std::string_view name;
  std::string_view version;
};
Result<ModelMessage> ParseModelMessage(std::string_view bytes);

// The `ready` (2) of RepositoryIndexRequest; a repository's name is UNIMPLEMENTED, as there is only one.
Result<bool> ParseIndexMessage(std::string_view bytes);

// For messages without fields: fails when the bytes are no message at all.
Status ParseEmptyMessage(std::string_view bytes);

}  // namespace mesh::ingress
