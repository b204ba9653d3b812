#include "proxy/request_head.h"

#include <cstdint>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <utility>

#include "common/protobuf.h"

namespace mesh::proxy {
namespace {

using protozero::pbf_reader;

// Fields of inference.ModelInferRequest, of its map `parameters`, and of inference.InferParameter.
enum : protozero::pbf_tag_type { kModelName = 1, kModelVersion = 2, kParameters = 4 };
enum : protozero::pbf_tag_type { kMapKey = 1, kMapValue = 2 };
enum : protozero::pbf_tag_type { kBoolParam = 1, kInt64Param = 2, kStringParam = 3, kUint64Param = 5 };

// A field with another wire type than its own is skipped, as protobuf does it.
constexpr std::uint32_t Bytes(protozero::pbf_tag_type tag) {
  return protozero::tag_and_type(tag, protozero::pbf_wire_type::length_delimited);
}
constexpr std::uint32_t Varint(protozero::pbf_tag_type tag) {
  return protozero::tag_and_type(tag, protozero::pbf_wire_type::varint);
}

std::string Text(const protozero::data_view& view) { return {view.data(), view.size()}; }

std::string ReadSequenceId(pbf_reader value) {
  std::string id;
  while (value.next()) {
    switch (value.tag_and_type()) {
      case Varint(kInt64Param): id = std::to_string(value.get_int64()); break;
      case Varint(kUint64Param): id = std::to_string(value.get_uint64()); break;
      case Bytes(kStringParam): id = Text(value.get_view()); break;
      default: value.skip();
    }
  }
  return id == "0" ? std::string() : id;  // Triton's word for no sequence
}

bool ReadFlag(pbf_reader value) {
  bool flag = false;
  while (value.next()) {
    if (value.tag_and_type() == Varint(kBoolParam)) {
      flag = ReadBool(&value);
    } else {
      value.skip();
    }
  }
  return flag;
}

void ReadParameter(pbf_reader entry, RequestHead* head) {
  protozero::data_view key;
  protozero::data_view value;
  while (entry.next()) {
    switch (entry.tag_and_type()) {
      case Bytes(kMapKey): key = entry.get_view(); break;
      case Bytes(kMapValue): value = entry.get_view(); break;
      default: entry.skip();
    }
  }
  const std::string_view name(key.data(), key.size());
  if (name == "sequence_id") head->sequence = ReadSequenceId(pbf_reader(value));
  if (name == "sequence_start") head->sequence_start = ReadFlag(pbf_reader(value));
  if (name == "sequence_end") head->sequence_end = ReadFlag(pbf_reader(value));
}

template <typename Read>
Status Guarded(const char* type, Read read) {
  try {
    read();
    return {};
  } catch (const protozero::exception& error) {
    return {Code::kInternal,
            "Unable to parse request: not a valid inference." + std::string(type) + " (" + error.what() + ")"};
  }
}

// What a client says is remembered and compared: it must not be of any length.
constexpr std::size_t kMaxNameBytes = 1024;

Status CheckLengths(const RequestHead& head) {
  for (const auto& [what, text] : {std::pair("model_name", &head.model), std::pair("model_version", &head.version),
                                   std::pair("sequence_id", &head.sequence)}) {
    if (text->size() <= kMaxNameBytes) continue;
    return {Code::kInvalidArgument, std::string(what) + " has " + std::to_string(text->size()) +
                                        " bytes, a proxy takes at most " + std::to_string(kMaxNameBytes)};
  }
  return {};
}

}  // namespace

std::string RequestHead::target() const {
  std::string name = deployment + '\0' + model + '\0' + version;
  for (const auto& [split, side] : sides) name.append(1, '\0').append(split).append(1, '\0').append(side);
  return name;
}

void RequestHead::Rename(std::string own) {
  model = std::move(own);
  renaming.clear();
  protozero::pbf_writer(renaming).add_string(kModelName, model);
}

rpc::Message WithName(const RequestHead& head, const rpc::Slice& request) {
  rpc::Message message;
  message.Append(request);
  message.Append(head.renaming);
  return message;
}

Status ReadInferHead(std::string_view request, RequestHead* head) {
  const Status read = Guarded("ModelInferRequest", [&] {
    pbf_reader reader(request.data(), request.size());
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case Bytes(kModelName): head->model = Text(reader.get_view()); break;
        case Bytes(kModelVersion): head->version = Text(reader.get_view()); break;
        case Bytes(kParameters): ReadParameter(reader.get_message(), head); break;
        default: reader.skip();
      }
    }
    if (!head->sequence.empty()) head->retry_safe = false;
  });
  return read.ok() ? CheckLengths(*head) : read;
}

Status ReadModelHead(std::string_view request, RequestHead* head) {
  const Status read = Guarded("request of a model", [&] {
    pbf_reader reader(request.data(), request.size());
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case Bytes(kModelName): head->model = Text(reader.get_view()); break;
        case Bytes(kModelVersion): head->version = Text(reader.get_view()); break;
        default: reader.skip();
      }
    }
  });
  return read.ok() ? CheckLengths(*head) : read;
}

void ReadMetadataHead(const rpc::Metadata& metadata, const std::string& hash_key, RequestHead* head) {
  for (const auto& [key, value] : metadata) {
    if (key == kDeploymentKey) head->deployment = value;
    if (key == kRetryKey && value == "never") head->retry_safe = false;
    if (!hash_key.empty() && head->hash.empty() && key == hash_key) head->hash = value;
  }
}

}  // namespace mesh::proxy
