#include "ingress/infer_answer.h"

#include <algorithm>
#include <memory>
#include <protozero/pbf_writer.hpp>
#include <string>
#include <utility>

#include "ingress/classification.h"

namespace mesh::ingress {
namespace {

constexpr const char* kFinal = "triton_final_response";

class Collector {
 public:
  Collector(const triton::InferResponse& response, const RequestExtras& extras, const triton::Server& server,
            ResponseParts* parts)
      : response_(response), extras_(extras), server_(server), parts_(*parts) {}

  Status Collect() {
    const char* model = "";
    if (Status status = response_.Model(&model, &parts_.model_version); !status.ok()) return status;
    parts_.model_name = model;
    parts_.id = response_.id();
    const std::uint32_t count = response_.output_count();
    parts_.outputs.reserve(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      if (Status status = AddOutput(i); !status.ok()) return status;
    }
    return {};
  }

 private:
  Status AddOutput(std::uint32_t index) {
    Result<triton::Output> found = response_.GetOutput(index);
    if (!found.ok()) return found.status();
    const triton::Output& output = found.value();
    const auto classes = std::find_if(extras_.classifications.begin(), extras_.classifications.end(),
                                      [&](const auto& entry) { return entry.first == output.name; });
    if (classes != extras_.classifications.end()) return AddClasses(index, output, classes->second);
    const bool shared = std::any_of(extras_.shared_outputs.begin(), extras_.shared_outputs.end(),
                                    [&](const auto& entry) { return entry.name == output.name; });
    if (shared) {  // the client has it already
      parts_.outputs.push_back({output.name, triton::DataTypeName(output.type), output.shape, output.dims, {}, {}});
      return {};
    }
    OutputPart part{output.name, triton::DataTypeName(output.type), output.shape,
                    output.dims, {output.data, output.size},        {}};
    if (output.size > kCopyBytes) part.owned = response_.Share(output);
    parts_.outputs.push_back(std::move(part));
    return {};
  }

  Status AddClasses(std::uint32_t index, const triton::Output& output, std::uint32_t count) {
    Result<std::uint32_t> flags = server_.BatchFlags(std::string(parts_.model_name).c_str(), parts_.model_version);
    if (!flags.ok()) return flags.status();
    const bool batched = (flags.value() & TRITONSERVER_BATCH_FIRST_DIM) != 0;
    Result<Classification> made = Classify(response_, index, output, count, batched);
    if (!made.ok()) return made.status();
    const auto kept = std::make_shared<const Classification>(std::move(made).value());
    const std::string& bytes = kept->bytes;
    parts_.outputs.push_back({output.name,
                              triton::DataTypeName(TRITONSERVER_TYPE_BYTES),
                              kept->shape.data(),
                              kept->shape.size(),
                              {bytes.data(), bytes.size()},
                              {kept, bytes.data(), bytes.size()}});
    return {};
  }

  const triton::InferResponse& response_;
  const RequestExtras& extras_;
  const triton::Server& server_;
  ResponseParts& parts_;
};

void AppendFinal(bool final, std::string* encoded) {
  protozero::pbf_writer out(*encoded);
  protozero::pbf_writer entry(out, 4);
  entry.add_string(1, kFinal);
  protozero::pbf_writer(entry, 2).add_bool(1, final);
}

// ModelInferResponse with nothing but what the form says.
std::string EncodeForm(const StreamedForm& form) {
  std::string encoded;
  protozero::pbf_writer out(encoded);
  if (!form.model.empty()) out.add_string(1, form.model.data(), form.model.size());
  if (!form.id.empty()) out.add_string(3, form.id.data(), form.id.size());
  if (!form.model.empty()) AppendFinal(form.final, &encoded);
  return encoded;
}

}  // namespace

Status CollectParts(const triton::InferResponse& response, const RequestExtras& extras, const triton::Server& server,
                    ResponseParts* parts) {
  return Collector(response, extras, server, parts).Collect();
}

Result<rpc::Message> EncodeAnswer(const triton::InferResponse& response, const RequestExtras& extras,
                                  const triton::Server& server, const Scratch& scratch) {
  ResponseParts parts;
  if (Status status = CollectParts(response, extras, server, &parts); !status.ok()) return status;
  if (Status status = AppendParameters(response, &parts.parameters); !status.ok()) return status;
  return WriteResponse(parts, scratch);
}

Result<rpc::Message> EncodeStreamedAnswer(const triton::InferResponse& response, const RequestExtras& extras,
                                          const triton::Server& server, const Scratch& scratch,
                                          const StreamedForm& form) {
  ResponseParts parts;
  if (Status status = CollectParts(response, extras, server, &parts); !status.ok()) return status;
  if (Status status = AppendParameters(response, &parts.parameters); !status.ok()) return status;
  AppendFinal(form.final, &parts.parameters);
  parts.streamed = true;
  return WriteResponse(parts, scratch);
}

rpc::Message EncodeStreamedEnd(const StreamedForm& form) {
  std::string encoded;
  protozero::pbf_writer(encoded).add_message(2, EncodeForm(form));
  return rpc::Message(std::move(encoded));
}

rpc::Message EncodeStreamedError(const Status& status, const StreamedForm& form) {
  std::string encoded;
  protozero::pbf_writer out(encoded);
  out.add_string(1, status.message());
  out.add_message(2, EncodeForm(form));
  return rpc::Message(std::move(encoded));
}

}  // namespace mesh::ingress
