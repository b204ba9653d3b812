#include "ingress/infer_message.h"

#include <protozero/exception.hpp>
#include <protozero/pbf_reader.hpp>
#include <string>

#include "ingress/message_reading.h"

namespace mesh::ingress {
namespace {

using protozero::pbf_reader;
using protozero::pbf_wire_type;
using protozero::tag_and_type;

// More of them than any model has. A few bytes of a message make a list entry of many, and the parameters are searched
// one by one: without a limit a small message could hold much memory, or an event loop for minutes.
constexpr std::size_t kMaxTensors = 16UL * 1024;  // inputs, outputs and raw contents, each
constexpr std::size_t kMaxDims = 256UL * 1024;    // of all inputs together
constexpr std::size_t kMaxParameters = 1024;      // of the request and all tensors, each repetition of a key counted

// Before one more is added.
void CheckRoom(std::size_t count, std::size_t limit, const char* what) {
  if (count < limit) return;
  throw MessageFault{{Code::kInvalidArgument,
                      "a request has more than " + std::to_string(limit) + " " + what + ", which is the limit"}};
}

void ReadParameterValue(pbf_reader reader, ParameterView* parameter) {
  using Value = ParameterView::Kind;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, pbf_wire_type::varint):
        parameter->kind = Value::kBool;
        parameter->bool_value = ReadBool(&reader);
        break;
      case tag_and_type(2, pbf_wire_type::varint):
        parameter->kind = Value::kInt64;
        parameter->int64_value = reader.get_int64();
        break;
      case tag_and_type(3, pbf_wire_type::length_delimited):
        parameter->kind = Value::kString;
        parameter->string_value = ReadText(&reader, "parameter value");
        break;
      case tag_and_type(4, pbf_wire_type::fixed64):
        parameter->kind = Value::kDouble;
        parameter->double_value = reader.get_double();
        break;
      case tag_and_type(5, pbf_wire_type::varint):
        parameter->kind = Value::kUint64;
        parameter->uint64_value = reader.get_uint64();
        break;
      default: reader.skip();
    }
  }
}

// Reads a map entry and puts it into `list`, over an earlier one of the same key at or after `begin`.
void ReadParameter(pbf_reader reader, std::size_t begin, std::vector<ParameterView>* list, InferMessage* message) {
  CheckRoom(message->parameter_entries++, kMaxParameters, "parameters");
  ParameterView parameter;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, pbf_wire_type::length_delimited): parameter.key = ReadText(&reader, "parameter key"); break;
      case tag_and_type(2, pbf_wire_type::length_delimited):
        ReadParameterValue(reader.get_message(), &parameter);
        break;
      default: reader.skip();
    }
  }
  for (std::size_t i = begin; i < list->size(); ++i) {
    if ((*list)[i].key == parameter.key) {
      (*list)[i] = parameter;
      return;
    }
  }
  list->push_back(parameter);
}

template <typename T>
Range Since(std::size_t begin, const std::vector<T>& list) {
  return {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(list.size() - begin)};
}

void AddDim(std::int64_t dim, InferMessage* message) {
  CheckRoom(message->dims.size(), kMaxDims, "dimensions");
  message->dims.push_back(dim);
}

void ReadInput(pbf_reader reader, InferMessage* message) {
  CheckRoom(message->inputs.size(), kMaxTensors, "inputs");
  TensorView input;
  const std::size_t dims_begin = message->dims.size();
  const std::size_t parameters_begin = message->tensor_parameters.size();
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, pbf_wire_type::length_delimited): input.name = ReadText(&reader, "input name"); break;
      case tag_and_type(2, pbf_wire_type::length_delimited):
        input.datatype = ReadText(&reader, "input datatype");
        break;
      case tag_and_type(3, pbf_wire_type::varint): AddDim(reader.get_int64(), message); break;
      case tag_and_type(3, pbf_wire_type::length_delimited): {
        const auto packed = reader.get_packed_int64();
        for (const std::int64_t dim : packed) AddDim(dim, message);
        break;
      }
      case tag_and_type(4, pbf_wire_type::length_delimited):
        ReadParameter(reader.get_message(), parameters_begin, &message->tensor_parameters, message);
        break;
      case tag_and_type(5, pbf_wire_type::length_delimited):
        if (input.has_contents) throw MessageFault{{Code::kInvalidArgument, "an input has contents twice"}};
        input.has_contents = true;
        input.contents = View(reader.get_view());
        break;
      default: reader.skip();
    }
  }
  input.shape = Since(dims_begin, message->dims);
  input.parameters = Since(parameters_begin, message->tensor_parameters);
  message->inputs.push_back(input);
}

void ReadOutput(pbf_reader reader, InferMessage* message) {
  CheckRoom(message->outputs.size(), kMaxTensors, "outputs");
  TensorView output;
  const std::size_t parameters_begin = message->tensor_parameters.size();
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, pbf_wire_type::length_delimited): output.name = ReadText(&reader, "output name"); break;
      case tag_and_type(2, pbf_wire_type::length_delimited):
        ReadParameter(reader.get_message(), parameters_begin, &message->tensor_parameters, message);
        break;
      default: reader.skip();
    }
  }
  output.parameters = Since(parameters_begin, message->tensor_parameters);
  message->outputs.push_back(output);
}

void ReadInfer(pbf_reader reader, InferMessage* message) {
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, pbf_wire_type::length_delimited):
        message->model_name = ReadText(&reader, "model_name");
        break;
      case tag_and_type(2, pbf_wire_type::length_delimited):
        message->model_version = ReadText(&reader, "model_version");
        break;
      case tag_and_type(3, pbf_wire_type::length_delimited): message->id = ReadText(&reader, "id"); break;
      case tag_and_type(4, pbf_wire_type::length_delimited):
        ReadParameter(reader.get_message(), 0, &message->parameters, message);
        break;
      case tag_and_type(5, pbf_wire_type::length_delimited): ReadInput(reader.get_message(), message); break;
      case tag_and_type(6, pbf_wire_type::length_delimited): ReadOutput(reader.get_message(), message); break;
      case tag_and_type(7, pbf_wire_type::length_delimited):
        CheckRoom(message->raw_inputs.size(), kMaxTensors, "raw_input_contents");
        message->raw_inputs.push_back(View(reader.get_view()));
        break;
      default: reader.skip();
    }
  }
}

}  // namespace

void InferMessage::Clear() {
  model_name = model_version = id = {};
  parameters.clear();
  inputs.clear();
  outputs.clear();
  raw_inputs.clear();
  dims.clear();
  tensor_parameters.clear();
  parameter_entries = 0;
}

Status ParseInferMessage(std::string_view bytes, InferMessage* message) {
  return ParseGuarded("ModelInferRequest", [&] { ReadInfer(ReaderOf(bytes), message); });
}

Result<ModelMessage> ParseModelMessage(std::string_view bytes) {
  ModelMessage message;
  Status status = ParseGuarded("ModelMessage", [&] {
    pbf_reader reader = ReaderOf(bytes);
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case tag_and_type(1, pbf_wire_type::length_delimited): message.name = ReadText(&reader, "name"); break;
        case tag_and_type(2, pbf_wire_type::length_delimited): message.version = ReadText(&reader, "version"); break;
        default: reader.skip();
      }
    }
  });
  if (!status.ok()) return status;
  return message;
}

Result<bool> ParseIndexMessage(std::string_view bytes) {
  bool ready = false;
  Status status = ParseGuarded("RepositoryIndexRequest", [&] {
    pbf_reader reader = ReaderOf(bytes);
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case tag_and_type(1, pbf_wire_type::length_delimited):
          if (!ReadText(&reader, "repository_name").empty()) {
            throw MessageFault{{Code::kUnimplemented, "'repository_name' specification is not supported"}};
          }
          break;
        case tag_and_type(2, pbf_wire_type::varint): ready = ReadBool(&reader); break;
        default: reader.skip();
      }
    }
  });
  if (!status.ok()) return status;
  return ready;
}

Status ParseEmptyMessage(std::string_view bytes) {
  return ParseGuarded("request", [&] {
    pbf_reader reader = ReaderOf(bytes);
    while (reader.next()) reader.skip();
  });
}

}  // namespace mesh::ingress
