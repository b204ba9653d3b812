#include "ingress/rest_answer.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "ingress/infer_answer.h"

namespace mesh::ingress {
namespace {

using Buffer = rapidjson::StringBuffer;

void WriteText(std::string_view text, JsonWriter* out) {
  out->String(text.data(), static_cast<rapidjson::SizeType>(text.size()));
}

void WriteKey(std::string_view key, JsonWriter* out) {
  out->Key(key.data(), static_cast<rapidjson::SizeType>(key.size()));
}

// The text without a copy.
rpc::Slice Share(std::shared_ptr<Buffer> buffer) {
  const char* text = buffer->GetString();
  const std::size_t size = buffer->GetSize();
  return {std::move(buffer), text, size};
}

struct ResponseParameter {
  const char* name = nullptr;
  TRITONSERVER_ParameterType type = TRITONSERVER_PARAMETER_STRING;
  const void* value = nullptr;
};

Result<ResponseParameter> ParameterAt(const triton::InferResponse& response, std::uint32_t index) {
  ResponseParameter parameter;
  Status status = response.Parameter(index, &parameter.name, &parameter.type, &parameter.value);
  if (!status.ok()) return status;
  if (parameter.type != TRITONSERVER_PARAMETER_BYTES) return parameter;
  return Status(Code::kUnimplemented,
                "Response parameter of type 'TRITONSERVER_PARAMETER_BYTES' is not currently supported");
}

void WriteParameter(const ResponseParameter& parameter, JsonWriter* out) {
  switch (parameter.type) {
    case TRITONSERVER_PARAMETER_BOOL: out->Bool(*static_cast<const bool*>(parameter.value)); break;
    case TRITONSERVER_PARAMETER_INT: out->Int64(*static_cast<const std::int64_t*>(parameter.value)); break;
    case TRITONSERVER_PARAMETER_DOUBLE: out->Double(*static_cast<const double*>(parameter.value)); break;
    default: WriteText(static_cast<const char*>(parameter.value), out);
  }
}

Status WriteParameters(const triton::InferResponse& response, JsonWriter* out) {
  const std::uint32_t count = response.parameter_count();
  if (count == 0) return {};
  WriteKey("parameters", out);
  out->StartObject();
  for (std::uint32_t i = 0; i < count; ++i) {
    Result<ResponseParameter> parameter = ParameterAt(response, i);
    if (!parameter.ok()) return parameter.status();
    WriteKey(parameter.value().name, out);
    WriteParameter(parameter.value(), out);
  }
  out->EndObject();
  return {};
}

void WriteTensorHead(const OutputPart& part, JsonWriter* out) {
  WriteKey("name", out);
  WriteText(part.name, out);
  WriteKey("datatype", out);
  WriteText(part.datatype, out);
  WriteKey("shape", out);
  out->StartArray();
  for (std::size_t i = 0; i < part.dims; ++i) out->Uint64(static_cast<std::uint64_t>(part.shape[i]));
  out->EndArray();
}

bool InSharedMemory(const RequestExtras& extras, std::string_view output) {
  return std::any_of(extras.shared_outputs.begin(), extras.shared_outputs.end(),
                     [&](const auto& entry) { return entry.name == output; });
}

// Writes one answer: the JSON, and what comes behind it.
class Writer {
 public:
  Writer(const RequestExtras& extras, const OutputForms& forms) : extras_(extras), forms_(forms), out_(*buffer_) {}

  Status Write(const triton::InferResponse& response, const ResponseParts& parts) {
    out_.StartObject();
    if (!parts.id.empty()) {
      WriteKey("id", &out_);
      WriteText(parts.id, &out_);
    }
    WriteKey("model_name", &out_);
    WriteText(parts.model_name, &out_);
    WriteKey("model_version", &out_);
    WriteText(std::to_string(parts.model_version), &out_);
    if (Status status = WriteParameters(response, &out_); !status.ok()) return status;
    WriteKey("outputs", &out_);
    out_.StartArray();
    for (const OutputPart& part : parts.outputs) {
      if (Status status = WriteOutput(part); !status.ok()) return status;
    }
    out_.EndArray();
    out_.EndObject();
    return {};
  }

  // After Write: the head's length, where bytes follow it.
  [[nodiscard]] std::optional<std::size_t> json_size() const {
    if (behind_.empty()) return std::nullopt;
    return buffer_->GetSize();
  }
  rpc::Message Take() {
    rpc::Message message;
    message.Append(Share(buffer_));
    for (rpc::Slice& slice : behind_) message.Append(std::move(slice));
    return message;
  }

 private:
  Status WriteOutput(const OutputPart& part) {
    out_.StartObject();
    WriteTensorHead(part, &out_);
    if (!InSharedMemory(extras_, part.name)) {
      if (forms_.IsBinary(part.name)) {
        WriteBinary(part);
      } else {
        WriteKey("data", &out_);
        if (Status status = TensorToJson(part, &out_); !status.ok()) return status;
      }
    }
    out_.EndObject();
    return {};
  }

  void WriteBinary(const OutputPart& part) {
    WriteKey("parameters", &out_);
    out_.StartObject();
    WriteKey("binary_data_size", &out_);
    out_.Uint64(part.data.size());
    out_.EndObject();
    if (part.data.empty()) return;
    behind_.push_back(part.owned.empty() ? rpc::Slice::Own(std::string(part.data)) : part.owned);
  }

  const RequestExtras& extras_;
  const OutputForms& forms_;
  const std::shared_ptr<Buffer> buffer_ = std::make_shared<Buffer>();
  JsonWriter out_;
  std::vector<rpc::Slice> behind_;
};

// Triton 2.51's clients match the name of the header in this form.
constexpr std::string_view kJsonLength = "Inference-Header-Content-Length";

// Of an answer to .../generate; of several of one name the first counts.
using Members = std::map<std::string_view, std::variant<ResponseParameter, const OutputPart*>>;

// `text` ends with NUL.
void AddText(const char* name, const char* text, Members* members) {
  members->emplace(name, ResponseParameter{name, TRITONSERVER_PARAMETER_STRING, text});
}

Result<std::string> WriteMembers(const Members& members) {
  Buffer buffer;
  JsonWriter out(buffer);
  out.StartObject();
  for (const auto& [name, member] : members) {
    WriteKey(name, &out);
    if (const auto* parameter = std::get_if<ResponseParameter>(&member); parameter != nullptr) {
      WriteParameter(*parameter, &out);
    } else if (Status status = ValueToJson(*std::get<const OutputPart*>(member), &out); !status.ok()) {
      return status;
    }
  }
  out.EndObject();
  return std::string(buffer.GetString(), buffer.GetSize());
}

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

}  // namespace

int HttpStatus(Code code) {
  switch (code) {
    case Code::kOk: return 200;
    case Code::kNotFound: return 404;
    case Code::kInternal:
    case Code::kDataLoss: return 500;
    case Code::kUnimplemented: return 501;
    case Code::kUnavailable: return 503;
    case Code::kDeadlineExceeded: return 504;
    case Code::kResourceExhausted: return 429;
    case Code::kPermissionDenied:
    case Code::kUnauthenticated: return 403;
    default: return 400;
  }
}

http::Response RestError(const Status& status) { return http::JsonError(HttpStatus(status.code()), status.message()); }

Result<http::Response> RestAnswer(const triton::InferResponse& response, const RequestExtras& extras,
                                  const triton::Server& server, const OutputForms& forms, rpc::Encoding encoding) {
  ResponseParts parts;
  if (Status status = CollectParts(response, extras, server, &parts); !status.ok()) return status;
  Writer writer(extras, forms);
  if (Status status = writer.Write(response, parts); !status.ok()) return status;
  http::Response answer;
  answer.content_type = http::kJson;
  if (const std::optional<std::size_t> json_size = writer.json_size(); json_size.has_value()) {
    answer.content_type = "application/octet-stream";
    answer.headers.emplace_back(kJsonLength, std::to_string(*json_size));
  }
  answer.body = writer.Take();
  if (encoding == rpc::Encoding::kIdentity) return answer;
  Result<std::string> packed = rpc::Compress(encoding, answer.body);
  if (!packed.ok()) return packed.status();
  answer.body = rpc::Message(std::move(packed).value());
  answer.headers.emplace_back("Content-Encoding", std::string(rpc::EncodingName(encoding)));
  return answer;
}

Result<std::string> GenerateAnswer(const triton::InferResponse& response, const RequestExtras& extras,
                                   const triton::Server& server) {
  ResponseParts parts;
  if (Status status = CollectParts(response, extras, server, &parts); !status.ok()) return status;
  const std::string version = std::to_string(parts.model_version);
  Members members;
  if (!parts.id.empty()) AddText("id", parts.id.data(), &members);
  AddText("model_name", parts.model_name.data(), &members);
  AddText("model_version", version.c_str(), &members);
  for (std::uint32_t i = 0; i < response.parameter_count(); ++i) {
    Result<ResponseParameter> parameter = ParameterAt(response, i);
    if (!parameter.ok()) return parameter.status();
    members.emplace(parameter.value().name, parameter.value());
  }
  for (const OutputPart& part : parts.outputs) members.emplace(part.name, &part);
  return WriteMembers(members);
}

rpc::Encoding WantedEncoding(std::string_view accept_encoding) {
  rpc::Encoding wanted = rpc::Encoding::kIdentity;
  double weight = 0;
  while (!accept_encoding.empty()) {
    const std::size_t comma = std::min(accept_encoding.find(','), accept_encoding.size());
    const std::string_view item = accept_encoding.substr(0, comma);
    accept_encoding.remove_prefix(std::min(comma + 1, accept_encoding.size()));
    const std::size_t mark = std::min(item.find(";q="), item.size());
    const std::string_view name = Trimmed(item.substr(0, mark));
    const double item_weight =
        mark == item.size() ? 1 : std::strtod(std::string(item.substr(mark + 3)).c_str(), nullptr);
    const std::optional<rpc::Encoding> encoding = name.empty() ? std::nullopt : rpc::ParseEncoding(name);
    if (!encoding.has_value() || item_weight <= weight) continue;
    wanted = *encoding;
    weight = item_weight;
  }
  return wanted;
}

}  // namespace mesh::ingress
