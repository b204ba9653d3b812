#include "ingress/rest_tensor.h"

#include <cstring>
#include <utility>
#include <vector>

namespace mesh::ingress {
namespace {

const char* const kWrongCount = "Unable to parse 'data': Shape does not match true shape of 'data' field";

// Calls `each` for every value in `data` that is no array, in order.
template <typename Each>
void ForEachValue(const Json& data, Each each) {
  if (!data.IsArray()) return each(data);
  std::vector<std::pair<const Json*, const Json*>> open{{data.Begin(), data.End()}};
  while (!open.empty()) {
    auto& [at, end] = open.back();
    if (at == end) {
      open.pop_back();
      continue;
    }
    const Json& value = *at++;
    if (value.IsArray()) {
      open.emplace_back(value.Begin(), value.End());
    } else {
      each(value);
    }
  }
}

template <typename T, typename Get>
std::string Numbers(const Json& data, std::int64_t elements, Get get) {
  std::string bytes;
  std::int64_t count = 0;
  Named("Unable to parse 'data'", [&] {
    ForEachValue(data, [&](const Json& value) {
      if (count++ >= elements) {
        throw JsonFault{{Code::kInternal, "Shape does not match true shape of 'data' field"}};
      }
      const auto number = static_cast<T>(get(value));  // too large ones lose their upper bits, as there
      char raw[sizeof(T)];
      std::memcpy(raw, &number, sizeof(T));
      bytes.append(raw, sizeof(T));
    });
  });
  if (count != elements) throw JsonFault{{Code::kInternal, kWrongCount}};
  return bytes;
}

std::string Strings(const Json& data) {
  std::string bytes;
  Named("Unable to parse JSON bytes array", [&] {
    ForEachValue(data, [&](const Json& value) {
      const std::string_view text = AsString(value);
      const auto size = static_cast<std::uint32_t>(text.size());
      char raw[sizeof(size)];
      std::memcpy(raw, &size, sizeof(size));
      bytes.append(raw, sizeof(size)).append(text);
    });
  });
  return bytes;
}

Status WrongSize(const OutputPart& part) {
  return {Code::kInternal, "output tensor shape does not match size of output for '" + std::string(part.name) + "'"};
}

template <typename T, typename Put>
Status WriteNumbers(const OutputPart& part, std::size_t elements, Put put) {
  if (part.data.size() != elements * sizeof(T)) return WrongSize(part);
  for (std::size_t i = 0; i < elements; ++i) {
    T value;
    std::memcpy(&value, part.data.data() + i * sizeof(T), sizeof(T));
    put(value);
  }
  return {};
}

Status WriteStrings(const OutputPart& part, std::size_t elements, JsonWriter* out) {
  std::string_view left = part.data;
  for (std::size_t i = 0; i < elements; ++i) {
    std::uint32_t size = 0;
    if (left.size() < sizeof(size)) return WrongSize(part);
    std::memcpy(&size, left.data(), sizeof(size));
    left.remove_prefix(sizeof(size));
    if (left.size() < size) return WrongSize(part);
    out->String(left.data(), size);
    left.remove_prefix(size);
  }
  return {};
}

Status NotInJson(const char* type) {
  return {Code::kInvalidArgument, std::string("sending ") + type +
                                      " data via JSON is not supported. Please use the binary data format for output"};
}

Status WriteValues(const OutputPart& part, std::size_t elements, JsonWriter* out) {
  const auto put_int = [out](auto value) { out->Int64(value); };
  const auto put_uint = [out](auto value) { out->Uint64(value); };
  const auto put_double = [out](auto value) { out->Double(value); };
  switch (triton::ParseDataType(part.datatype)) {
    case TRITONSERVER_TYPE_BOOL:
      return WriteNumbers<std::uint8_t>(part, elements, [out](std::uint8_t value) { out->Bool(value != 0); });
    case TRITONSERVER_TYPE_UINT8: return WriteNumbers<std::uint8_t>(part, elements, put_uint);
    case TRITONSERVER_TYPE_UINT16: return WriteNumbers<std::uint16_t>(part, elements, put_uint);
    case TRITONSERVER_TYPE_UINT32: return WriteNumbers<std::uint32_t>(part, elements, put_uint);
    case TRITONSERVER_TYPE_UINT64: return WriteNumbers<std::uint64_t>(part, elements, put_uint);
    case TRITONSERVER_TYPE_INT8: return WriteNumbers<std::int8_t>(part, elements, put_int);
    case TRITONSERVER_TYPE_INT16: return WriteNumbers<std::int16_t>(part, elements, put_int);
    case TRITONSERVER_TYPE_INT32: return WriteNumbers<std::int32_t>(part, elements, put_int);
    case TRITONSERVER_TYPE_INT64: return WriteNumbers<std::int64_t>(part, elements, put_int);
    case TRITONSERVER_TYPE_FP32: return WriteNumbers<float>(part, elements, put_double);
    case TRITONSERVER_TYPE_FP64: return WriteNumbers<double>(part, elements, put_double);
    case TRITONSERVER_TYPE_BYTES: return WriteStrings(part, elements, out);
    case TRITONSERVER_TYPE_FP16: return NotInJson("FP16");
    case TRITONSERVER_TYPE_BF16: return NotInJson("BF16");
    default: return {Code::kInvalidArgument, "Invalid data type for output tensor"};
  }
}

}  // namespace

std::string JsonToTensor(const Json& data, triton::DataType type, std::string_view input, std::int64_t elements) {
  const auto refuse = [input](const std::string& why) {
    throw JsonFault{{Code::kInvalidArgument, why + std::string(input)}};
  };
  switch (type) {
    case TRITONSERVER_TYPE_BOOL: return Numbers<std::uint8_t>(data, elements, AsBool);
    case TRITONSERVER_TYPE_UINT8: return Numbers<std::uint8_t>(data, elements, AsUint);
    case TRITONSERVER_TYPE_UINT16: return Numbers<std::uint16_t>(data, elements, AsUint);
    case TRITONSERVER_TYPE_UINT32: return Numbers<std::uint32_t>(data, elements, AsUint);
    case TRITONSERVER_TYPE_UINT64: return Numbers<std::uint64_t>(data, elements, AsUint);
    case TRITONSERVER_TYPE_INT8: return Numbers<std::int8_t>(data, elements, AsInt);
    case TRITONSERVER_TYPE_INT16: return Numbers<std::int16_t>(data, elements, AsInt);
    case TRITONSERVER_TYPE_INT32: return Numbers<std::int32_t>(data, elements, AsInt);
    case TRITONSERVER_TYPE_INT64: return Numbers<std::int64_t>(data, elements, AsInt);
    case TRITONSERVER_TYPE_FP32: return Numbers<float>(data, elements, AsDouble);
    case TRITONSERVER_TYPE_FP64: return Numbers<double>(data, elements, AsDouble);
    case TRITONSERVER_TYPE_BYTES: return Strings(data);
    case TRITONSERVER_TYPE_FP16:
    case TRITONSERVER_TYPE_BF16:
      refuse(std::string("receiving ") + triton::DataTypeName(type) +
             " data via JSON is not supported. Please use the binary data format for input ");
      break;
    default: refuse("invalid datatype for input ");
  }
  return {};
}

Status ValueToJson(const OutputPart& part, JsonWriter* out) {
  if (triton::ElementCount(part.shape, part.dims) != 1) return TensorToJson(part, out);
  return WriteValues(part, 1, out);
}

Status TensorToJson(const OutputPart& part, JsonWriter* out) {
  const auto elements = triton::ElementCount(part.shape, part.dims);
  if (!elements.has_value()) return WrongSize(part);
  out->StartArray();
  if (Status status = WriteValues(part, static_cast<std::size_t>(*elements), out); !status.ok()) return status;
  out->EndArray();
  return {};
}

}  // namespace mesh::ingress
