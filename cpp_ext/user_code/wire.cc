#include "user_code/wire.h"

#include <deque>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh::user {
namespace {

using protozero::pbf_reader;
using protozero::pbf_writer;

constexpr std::size_t kMaxMessage = (1UL << 31) - 1;

// Fields of inference.ModelInferRequest, its tensors, its map of parameters, and InferParameter.
enum : protozero::pbf_tag_type {
  kModel = 1,
  kVersion = 2,
  kId = 3,
  kParameters = 4,
  kInputs = 5,
  kOutputs = 6,
  kRaw = 7
};
enum : protozero::pbf_tag_type { kName = 1, kDatatype = 2, kShape = 3 };
enum : protozero::pbf_tag_type { kKey = 1, kValue = 2 };
enum : protozero::pbf_tag_type { kBool = 1, kInt64 = 2, kString = 3, kDouble = 4 };
// Of inference.ModelInferResponse.
enum : protozero::pbf_tag_type { kAnswerOutputs = 5, kAnswerRaw = 6 };

// protozero's text functions know std::string and views of their own.
void AddText(pbf_writer* writer, protozero::pbf_tag_type tag, std::string_view text) {
  if (!text.empty()) writer->add_string(tag, text.data(), text.size());
}

void AddParameter(pbf_writer* message, const MeshValue& value) {
  pbf_writer entry(*message, kParameters);
  AddText(&entry, kKey, value.name);
  pbf_writer held(entry, kValue);
  switch (value.kind) {
    case MESH_BOOL: held.add_bool(kBool, value.boolean != 0); break;
    case MESH_INTEGER: held.add_int64(kInt64, value.integer); break;
    case MESH_NUMBER: held.add_double(kDouble, value.number); break;
    default: held.add_string(kString, value.text.data, value.text.size);
  }
}

void AddInput(pbf_writer* message, const MeshTensor& tensor) {
  pbf_writer input(*message, kInputs);
  AddText(&input, kName, tensor.name);
  AddText(&input, kDatatype, tensor.datatype);
  input.add_packed_int64(kShape, tensor.shape, tensor.shape + tensor.dims);
}

// The texts and shapes of the tensors are copied, as C strings and aligned numbers; their elements are not.
struct DeploymentReply final : MeshReply {
  struct Head {
    std::string name;
    std::string datatype;
    std::vector<std::int64_t> shape;
  };
  rpc::Slice message;
  std::deque<Head> heads;
};

DeploymentReply::Head ReadHead(pbf_reader output) {
  DeploymentReply::Head head;
  while (output.next()) {
    switch (output.tag()) {
      case kName: head.name = output.get_string(); break;
      case kDatatype: head.datatype = output.get_string(); break;
      case kShape: {
        const auto range = output.get_packed_int64();
        head.shape.assign(range.begin(), range.end());
        break;
      }
      default: output.skip();
    }
  }
  return head;
}

Status Read(DeploymentReply* reply) {
  std::vector<protozero::data_view> raw;
  pbf_reader reader(reply->message.data(), reply->message.size());
  while (reader.next()) {
    switch (reader.tag()) {
      case kAnswerOutputs: reply->heads.push_back(ReadHead(reader.get_message())); break;
      case kAnswerRaw: raw.push_back(reader.get_view()); break;
      default: reader.skip();
    }
  }
  if (raw.size() != reply->heads.size()) {
    return {Code::kUnimplemented, "the answer has " + std::to_string(reply->heads.size()) + " outputs and " +
                                      std::to_string(raw.size()) + " raw contents; only raw ones are read"};
  }
  std::size_t index = 0;
  for (const DeploymentReply::Head& head : reply->heads) {
    const protozero::data_view& bytes = raw[index++];
    reply->outputs.push_back(
        {head.name.c_str(), head.datatype.c_str(), head.shape.data(), head.shape.size(), bytes.data(), bytes.size()});
  }
  return {};
}

}  // namespace

Result<std::string> EncodeQuestion(const MeshQuestion& question) {
  std::size_t bytes = 0;
  for (std::size_t index = 0; index < question.input_count; ++index) bytes += question.inputs[index].size;
  if (bytes > kMaxMessage) {
    return Status(Code::kInvalidArgument, "the inputs have " + std::to_string(bytes) + " bytes, a message at most " +
                                              std::to_string(kMaxMessage));
  }
  std::string encoded;
  encoded.reserve(bytes + 256 * (1 + question.input_count));
  pbf_writer message(encoded);
  AddText(&message, kModel, question.model);
  AddText(&message, kVersion, question.version);
  AddText(&message, kId, question.id);
  for (std::size_t index = 0; index < question.parameter_count; ++index) {
    AddParameter(&message, question.parameters[index]);
  }
  for (std::size_t index = 0; index < question.input_count; ++index) AddInput(&message, question.inputs[index]);
  for (std::size_t index = 0; index < question.output_count; ++index) {
    pbf_writer output(message, kOutputs);
    AddText(&output, kName, question.outputs[index]);
  }
  for (std::size_t index = 0; index < question.input_count; ++index) {
    message.add_bytes(kRaw, static_cast<const char*>(question.inputs[index].data), question.inputs[index].size);
  }
  return encoded;
}

Result<std::unique_ptr<MeshReply>> DecodeReply(rpc::Slice message) {
  auto reply = std::make_unique<DeploymentReply>();
  reply->message = std::move(message);
  try {
    if (Status status = Read(reply.get()); !status.ok()) return status;
  } catch (const protozero::exception& error) {
    return Status(Code::kDataLoss, std::string("the answer is no inference.ModelInferResponse: ") + error.what());
  }
  return std::unique_ptr<MeshReply>(std::move(reply));
}

}  // namespace mesh::user
