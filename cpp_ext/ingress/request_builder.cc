#include "ingress/request_builder.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "ingress/contents.h"
#include "triton/datatype.h"
#include "triton/library.h"

namespace mesh::ingress {
namespace {

using Value = ParameterView::Kind;

constexpr std::string_view kReserved = "triton_";
constexpr std::string_view kEmptyFinal = "triton_enable_empty_final_response";
constexpr std::string_view kSharedMemory = "shared_memory_region";
constexpr std::string_view kSharedSize = "shared_memory_byte_size";
constexpr std::string_view kSharedOffset = "shared_memory_offset";
constexpr std::string_view kClassification = "classification";

Status Bad(std::string message) { return {Code::kInvalidArgument, std::move(message)}; }

Status BadType(std::string_view key, const char* expected) {
  return Bad("invalid value type for '" + std::string(key) + "' parameter, expected " + expected + ".");
}

Status BadTensorType(const TensorView& tensor, std::string_view key, const char* expected) {
  return Bad("invalid value type for '" + std::string(key) + "' parameter for tensor '" + std::string(tensor.name) +
             "', expected " + expected + ".");
}

class Builder {
 public:
  Builder(const InferMessage& message, TRITONSERVER_InferenceRequest* request, const SharedMemory& shared_memory,
          CStringArena* arena, RequestExtras* extras)
      : message_(message), request_(request), shared_memory_(shared_memory), arena_(*arena), extras_(*extras) {}

  Status Build(std::uint64_t deadline_us) {
    timeout_us_ = deadline_us;
    if (!message_.id.empty()) {
      Status status = triton::ToStatus(api_.InferenceRequestSetId(request_, arena_.Copy(message_.id)));
      if (!status.ok()) return status;
    }
    for (const ParameterView& parameter : message_.parameters) {
      if (Status status = SetParameter(parameter); !status.ok()) return status;
    }
    if (Status status = SetFlagsAndTimeout(); !status.ok()) return status;
    if (Status status = AddTensors(); !status.ok()) return status;
    return AddData();
  }

 private:
  Status SetParameter(const ParameterView& parameter);
  Status SetSequenceId(const ParameterView& parameter);
  Status SetPriority(const ParameterView& parameter);
  Status SetTimeout(const ParameterView& parameter);
  Status SetFlagsAndTimeout();
  Status AddTensors();
  Status AddInput(const TensorView& input);
  Status AddOutput(const TensorView& output);
  Status BadShape(const TensorView& input) const;
  Status AddData();
  Result<std::string_view> DataOf(const TensorView& input, std::size_t* raws_used);
  [[nodiscard]] Result<std::optional<rpc::Slice>> SharedPart(const TensorView& tensor) const;
  [[nodiscard]] Result<std::uint64_t> SharedNumber(const TensorView& tensor, std::string_view key) const;
  Result<std::string_view> SharedData(const TensorView& input, rpc::Slice part);
  [[nodiscard]] Status CheckStrings(const TensorView& input, std::string_view bytes) const;
  [[nodiscard]] const ParameterView* FindParameter(const TensorView& tensor, std::string_view key) const;

  const triton::Api& api_ = triton::GetApi();
  const InferMessage& message_;
  TRITONSERVER_InferenceRequest* request_;
  const SharedMemory& shared_memory_;
  CStringArena& arena_;
  RequestExtras& extras_;
  std::uint32_t flags_ = 0;
  std::uint64_t timeout_us_ = 0;
  std::vector<const char*> input_names_;  // in the arena
};

Status Builder::SetParameter(const ParameterView& parameter) {
  const auto set_flag = [&](std::uint32_t flag) {
    if (parameter.kind != Value::kBool) return BadType(parameter.key, "bool_param");
    if (parameter.bool_value) flags_ |= flag;
    return Status();
  };
  if (parameter.key == "sequence_id") return SetSequenceId(parameter);
  if (parameter.key == "sequence_start") return set_flag(TRITONSERVER_REQUEST_FLAG_SEQUENCE_START);
  if (parameter.key == "sequence_end") return set_flag(TRITONSERVER_REQUEST_FLAG_SEQUENCE_END);
  if (parameter.key == "priority") return SetPriority(parameter);
  if (parameter.key == "timeout") return SetTimeout(parameter);
  if (parameter.key.substr(0, kReserved.size()) == kReserved) {
    if (parameter.key == kEmptyFinal) {
      if (parameter.kind != Value::kBool) return BadType(parameter.key, "bool_param");
      extras_.empty_final = parameter.bool_value;
      return {};
    }
    return Bad(
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting "
        "with 'triton_' are allowed: " +
        std::string(kEmptyFinal));
  }
  return SetCustomParameter(parameter, request_, &arena_);
}

Status Builder::SetSequenceId(const ParameterView& parameter) {
  if (parameter.kind == Value::kInt64) {
    const auto id = static_cast<std::uint64_t>(parameter.int64_value);
    return triton::ToStatus(api_.InferenceRequestSetCorrelationId(request_, id));
  }
  if (parameter.kind != Value::kString) return BadType(parameter.key, "int64_param or string_param");
  const char* id = arena_.Copy(parameter.string_value);
  return triton::ToStatus(api_.InferenceRequestSetCorrelationIdString(request_, id));
}

Status Builder::SetPriority(const ParameterView& parameter) {
  std::uint64_t priority = parameter.uint64_value;
  if (parameter.kind == Value::kInt64) {
    if (parameter.int64_value < 0) return Bad("invalid value for 'priority', expected value >= 0.");
    priority = static_cast<std::uint64_t>(parameter.int64_value);
  } else if (parameter.kind != Value::kUint64) {
    return BadType(parameter.key, "int64_param or uint64_param");
  }
  return triton::ToStatus(api_.InferenceRequestSetPriorityUInt64(request_, priority));
}

// The shorter of the client's wish and the deadline of its call.
Status Builder::SetTimeout(const ParameterView& parameter) {
  if (parameter.kind != Value::kInt64) return BadType(parameter.key, "int64_param");
  if (parameter.int64_value <= 0) return {};
  const auto wished = static_cast<std::uint64_t>(parameter.int64_value);
  timeout_us_ = timeout_us_ == 0 ? wished : std::min(timeout_us_, wished);
  return {};
}

Status Builder::SetFlagsAndTimeout() {
  if (flags_ != 0) {
    Status status = triton::ToStatus(api_.InferenceRequestSetFlags(request_, flags_));
    if (!status.ok()) return status;
  }
  if (timeout_us_ == 0) return {};
  return triton::ToStatus(api_.InferenceRequestSetTimeoutMicroseconds(request_, timeout_us_));
}

const ParameterView* Builder::FindParameter(const TensorView& tensor, std::string_view key) const {
  const ParameterView* begin = message_.tensor_parameters.data() + tensor.parameters.begin;
  const ParameterView* end = begin + tensor.parameters.count;
  const ParameterView* found = std::find_if(begin, end, [&](const ParameterView& p) { return p.key == key; });
  return found == end ? nullptr : found;
}

Status Builder::AddTensors() {
  for (const TensorView& input : message_.inputs) {
    if (Status status = AddInput(input); !status.ok()) return status;
  }
  for (const TensorView& output : message_.outputs) {
    if (Status status = AddOutput(output); !status.ok()) return status;
  }
  return {};
}

Status Builder::AddInput(const TensorView& input) {
  const std::int64_t* shape = message_.dims.data() + input.shape.begin;
  const triton::DataType type = triton::ParseDataType(input.datatype);
  const auto elements = triton::ElementCount(shape, input.shape.count);
  const std::size_t size = std::max<std::size_t>(triton::DataTypeSize(type), 1);
  // Triton multiplies without looking: such a shape could pass for one of few bytes.
  if (!elements.has_value() || *elements > INT64_MAX / static_cast<std::int64_t>(size)) return BadShape(input);
  input_names_.push_back(arena_.Copy(input.name));
  return triton::ToStatus(api_.InferenceRequestAddInput(request_, input_names_.back(), type, shape, input.shape.count));
}

Status Builder::BadShape(const TensorView& input) const {
  const std::int64_t* begin = message_.dims.data() + input.shape.begin;
  const std::int64_t* end = begin + input.shape.count;
  const std::string where = "input '" + std::string(input.name) + "' for model '" + std::string(message_.model_name);
  if (std::none_of(begin, end, [](std::int64_t dim) { return dim < 0; })) {
    return Bad(where + "' has a shape with more elements than can be addressed");
  }
  std::string shape;
  for (const std::int64_t* dim = begin; dim != end; ++dim) shape += (dim == begin ? "" : ",") + std::to_string(*dim);
  const std::string id(message_.id.empty() ? "<id_unknown>" : message_.id);
  return Bad("[request id: " + id + "] All input dimensions should be specified for " + where + "', got [" + shape +
             "]");
}

Status Builder::AddOutput(const TensorView& output) {
  Result<std::optional<rpc::Slice>> shared = SharedPart(output);
  if (!shared.ok()) return shared.status();
  if (shared.value().has_value()) {
    if (FindParameter(output, kClassification) != nullptr) {
      return Bad("output can't set both 'shared_memory_region' and 'classification'");
    }
    extras_.shared_outputs.push_back({std::string(output.name), *std::move(shared).value()});
  }
  if (const ParameterView* classes = FindParameter(output, kClassification); classes != nullptr) {
    if (classes->kind != Value::kInt64) {
      return Bad("invalid value type for 'classification' parameter, expected int64_param");
    }
    if (classes->int64_value <= 0) return Bad("invalid value for 'classification' parameter, expected >= 1");
    const auto count = static_cast<std::uint32_t>(std::min<std::int64_t>(classes->int64_value, UINT32_MAX));
    extras_.classifications.emplace_back(std::string(output.name), count);
  }
  return triton::ToStatus(api_.InferenceRequestAddRequestedOutput(request_, arena_.Copy(output.name)));
}

Result<std::string_view> Builder::DataOf(const TensorView& input, std::size_t* raws_used) {
  const auto where = [&] { return std::string(input.name) + "' for model '" + std::string(message_.model_name) + "'"; };
  Result<std::optional<rpc::Slice>> shared = SharedPart(input);
  if (!shared.ok()) return shared.status();
  if (shared.value().has_value()) {
    if (!input.has_contents) return SharedData(input, *std::move(shared).value());
    return Bad("unexpected 'content' provided when using shared memory for input tensor '" + where());
  }
  if (!input.has_contents) {
    if (*raws_used < message_.raw_inputs.size()) return message_.raw_inputs[(*raws_used)++];
    return Bad("unable to find data for input tensor '" + where() + " in request.");
  }
  if (!message_.raw_inputs.empty()) {
    return Bad("contents field must not be specified when using raw_input_contents for '" + where());
  }
  Result<std::string> encoded = ContentsToBytes(input.contents, triton::ParseDataType(input.datatype),
                                                std::string(input.name), std::string(message_.model_name));
  if (!encoded.ok()) return encoded.status();
  extras_.typed_contents.push_back(std::move(encoded).value());
  return std::string_view{extras_.typed_contents.back()};
}

// One of the two numbers that come with a region; an offset may be left out.
Result<std::uint64_t> Builder::SharedNumber(const TensorView& tensor, std::string_view key) const {
  const ParameterView* parameter = FindParameter(tensor, key);
  if (parameter == nullptr) {
    if (key == kSharedOffset) return std::uint64_t{0};
    return Bad("'" + std::string(key) + "' must be specified along with '" + std::string(kSharedMemory) +
               "' parameter for tensor '" + std::string(tensor.name) + "'");
  }
  if (parameter->kind != Value::kInt64) return BadTensorType(tensor, key, "int64_param");
  return static_cast<std::uint64_t>(parameter->int64_value);  // a negative one lies beyond every region
}

// The part of shared memory that the tensor's parameters name, if they do.
Result<std::optional<rpc::Slice>> Builder::SharedPart(const TensorView& tensor) const {
  if (tensor.parameters.count == 0) return std::optional<rpc::Slice>();
  const ParameterView* region = FindParameter(tensor, kSharedMemory);
  if (region == nullptr) return std::optional<rpc::Slice>();
  if (region->kind != Value::kString) return BadTensorType(tensor, kSharedMemory, "string_param");
  Result<std::uint64_t> size = SharedNumber(tensor, kSharedSize);
  if (!size.ok()) return size.status();
  Result<std::uint64_t> offset = SharedNumber(tensor, kSharedOffset);
  if (!offset.ok()) return offset.status();
  Result<rpc::Slice> part = shared_memory_.Find(std::string(region->string_value), offset.value(), size.value());
  if (!part.ok()) return part.status();
  return std::optional<rpc::Slice>(std::move(part).value());
}

// Strings are copied: their lengths are checked, and must not change between that and their use.
Result<std::string_view> Builder::SharedData(const TensorView& input, rpc::Slice part) {
  if (input.datatype == "BYTES") {
    extras_.typed_contents.emplace_back(part.view());
    return std::string_view{extras_.typed_contents.back()};
  }
  extras_.shared_inputs.push_back(std::move(part));
  return extras_.shared_inputs.back().view();
}

// Triton counts the elements of a BYTES tensor, but takes a last one that is longer than the bytes that are left.
Status Builder::CheckStrings(const TensorView& input, std::string_view bytes) const {
  std::size_t left = bytes.size();
  while (left >= sizeof(std::uint32_t)) {
    std::uint32_t length = 0;
    std::memcpy(&length, bytes.data() + (bytes.size() - left), sizeof(length));
    left -= sizeof(length);
    if (length > left) {
      return Bad("incomplete string element in input '" + std::string(input.name) + "' for model '" +
                 std::string(message_.model_name) + "': it says " + std::to_string(length) + " bytes, but only " +
                 std::to_string(left) + " are left");
    }
    left -= length;
  }
  return {};  // a rest of 1 to 3 bytes is Triton's to report, as is a wrong number of elements
}

Status Builder::AddData() {
  std::size_t raws_used = 0;
  extras_.typed_contents.reserve(message_.inputs.size());  // Triton gets pointers into the elements
  for (std::size_t i = 0; i < message_.inputs.size(); ++i) {
    const TensorView& input = message_.inputs[i];
    Result<std::string_view> bytes = DataOf(input, &raws_used);
    if (!bytes.ok()) return bytes.status();
    if (input.datatype == "BYTES") {
      if (Status status = CheckStrings(input, bytes.value()); !status.ok()) return status;
    }
    Status status = triton::ToStatus(api_.InferenceRequestAppendInputData(
        request_, input_names_[i], bytes.value().data(), bytes.value().size(), TRITONSERVER_MEMORY_CPU, 0));
    if (!status.ok()) return status;
  }
  // What comes beside shared memory is not looked at.
  if (raws_used == message_.raw_inputs.size() || !extras_.shared_inputs.empty()) return {};
  return Bad("expected " + std::to_string(raws_used) + " raw_input_contents for the inputs of model '" +
             std::string(message_.model_name) + "', got " + std::to_string(message_.raw_inputs.size()));
}

}  // namespace

Status BuildRequest(const InferMessage& message, std::uint64_t deadline_us, TRITONSERVER_InferenceRequest* request,
                    const SharedMemory& shared_memory, CStringArena* arena, RequestExtras* extras) {
  return Builder(message, request, shared_memory, arena, extras).Build(deadline_us);
}

Status SetCustomParameter(const ParameterView& parameter, TRITONSERVER_InferenceRequest* request, CStringArena* arena) {
  const triton::Api& api = triton::GetApi();
  const char* key = arena->Copy(parameter.key);
  switch (parameter.kind) {
    case Value::kBool:
      return triton::ToStatus(api.InferenceRequestSetBoolParameter(request, key, parameter.bool_value));
    case Value::kInt64:
      return triton::ToStatus(api.InferenceRequestSetIntParameter(request, key, parameter.int64_value));
    case Value::kString:
      return triton::ToStatus(
          api.InferenceRequestSetStringParameter(request, key, arena->Copy(parameter.string_value)));
    case Value::kDouble:
      return triton::ToStatus(api.InferenceRequestSetDoubleParameter(request, key, parameter.double_value));
    case Value::kNone:
    case Value::kUint64: break;
  }
  return BadType(parameter.key, "int64_param, bool_param, or string_param");
}

Result<char*> PlaceOutput(const RequestExtras& extras, std::string_view name, std::size_t size) {
  for (const RequestExtras::SharedOutput& output : extras.shared_outputs) {
    if (output.name != name) continue;
    // Mapped for writing; a slice is read-only only because most others are.
    if (size <= output.place.size()) return const_cast<char*>(output.place.data());
    return Status(Code::kInternal, "shared memory size specified with the request for output '" + output.name + "' (" +
                                       std::to_string(output.place.size()) + " bytes) should be at least " +
                                       std::to_string(size) + " bytes to hold the results");
  }
  return nullptr;
}

}  // namespace mesh::ingress
