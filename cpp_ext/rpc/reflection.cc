#include "rpc/reflection.h"

#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <set>
#include <string>
#include <utility>

#include "rpc/descriptor_index.h"

namespace mesh::rpc {
namespace {

using Tag = protozero::pbf_tag_type;

constexpr Tag kHost = 1, kFileByName = 3, kFileOfSymbol = 4, kFileOfExtension = 5, kExtensionNumbers = 6,
              kListServices = 7;
constexpr Tag kExtensionType = 1, kExtensionNumber = 2;
constexpr Tag kValidHost = 1, kOriginalRequest = 2, kFiles = 4, kNumbers = 5, kServices = 6, kError = 7;
constexpr Tag kFileBytes = 1, kBaseType = 1, kNumber = 2, kService = 1, kServiceName = 1, kErrorCode = 1,
              kErrorMessage = 2;

struct Question {
  std::string host;
  Tag kind = 0;  // which member of the oneof; 0: none
  std::string text;
  std::int32_t number = 0;
};

// Throws protozero's exceptions for bytes that are no request.
Question Decode(const Slice& request) {
  Question question;
  protozero::pbf_reader reader(request.data(), request.size());
  while (reader.next()) {
    const Tag tag = reader.tag();
    if (tag == kHost) {
      question.host = reader.get_string();
    } else if (tag == kFileOfExtension) {
      question.kind = tag;
      protozero::pbf_reader extension = reader.get_message();
      while (extension.next()) {
        if (extension.tag() == kExtensionType) {
          question.text = extension.get_string();
        } else if (extension.tag() == kExtensionNumber) {
          question.number = extension.get_int32();
        } else {
          extension.skip();
        }
      }
    } else if (tag >= kFileByName && tag <= kListServices) {
      question.kind = tag;
      question.text = reader.get_string();
    } else {
      reader.skip();
    }
  }
  return question;
}

void WriteError(protozero::pbf_writer* answer, Code code, const std::string& message) {
  protozero::pbf_writer error(*answer, kError);
  error.add_int32(kErrorCode, static_cast<std::int32_t>(code));
  error.add_string(kErrorMessage, message);
}

void WriteFiles(protozero::pbf_writer* answer, const std::vector<std::string_view>& files, const std::string& wanted) {
  if (files.empty()) {
    WriteError(answer, Code::kNotFound, wanted + " is not known to this server");
    return;
  }
  protozero::pbf_writer response(*answer, kFiles);
  for (const std::string_view file : files) response.add_bytes(kFileBytes, file.data(), file.size());
}

void WriteServices(protozero::pbf_writer* answer, const Server& server) {
  std::set<std::string> names;
  for (const std::string& path : server.paths()) names.insert(path.substr(1, path.rfind('/') - 1));
  protozero::pbf_writer response(*answer, kServices);
  for (const std::string& name : names) {
    protozero::pbf_writer service(response, kService);
    service.add_string(kServiceName, name);
  }
}

void WriteExtensions(protozero::pbf_writer* answer, const DescriptorIndex& index, const std::string& type) {
  if (!index.KnowsSymbol(type)) {
    WriteError(answer, Code::kNotFound, "the type '" + type + "' is not known to this server");
    return;
  }
  const std::vector<std::int32_t> numbers = index.ExtensionsOf(type);
  protozero::pbf_writer response(*answer, kNumbers);
  response.add_string(kBaseType, type);
  response.add_packed_int32(kNumber, numbers.begin(), numbers.end());
}

std::string Answer(const DescriptorIndex& index, const Server& server, const Slice& request) {
  const Question question = Decode(request);
  std::string out;
  protozero::pbf_writer answer(out);
  answer.add_string(kValidHost, question.host);
  answer.add_message(kOriginalRequest, request.data(), request.size());
  const std::string quoted = "'" + question.text + "'";
  switch (question.kind) {
    case kFileByName: WriteFiles(&answer, index.FileByName(question.text), "the file " + quoted); break;
    case kFileOfSymbol: WriteFiles(&answer, index.FileOfSymbol(question.text), "the symbol " + quoted); break;
    case kFileOfExtension:
      WriteFiles(&answer, index.FileOfExtension(question.text, question.number),
                 "the extension " + std::to_string(question.number) + " of " + quoted);
      break;
    case kExtensionNumbers: WriteExtensions(&answer, index, question.text); break;
    case kListServices: WriteServices(&answer, server); break;
    default: WriteError(&answer, Code::kInvalidArgument, "the request asks for nothing");
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<ReflectionService>> ReflectionService::Create(
    const std::vector<std::string_view>& descriptor_sets) {
  auto index = std::make_shared<DescriptorIndex>();
  std::vector<std::string_view> all = descriptor_sets;
  all.push_back(HealthDescriptors());
  all.push_back(ReflectionDescriptors());
  for (const std::string_view set : all) {
    Status added = index->Add(set);
    if (!added.ok()) return added;
  }
  return std::unique_ptr<ReflectionService>(new ReflectionService(std::move(index)));
}

ReflectionService::ReflectionService(std::shared_ptr<const DescriptorIndex> index) : index_(std::move(index)) {}
ReflectionService::~ReflectionService() = default;

void ReflectionService::Register(Server* server) {
  const StreamHandler handler = [index = index_, server](const std::shared_ptr<ServerCall>& call) {
    call->OnMessage([index, server, call](const std::optional<Slice>& request) {
      if (!request) {
        call->Finish(Status());
        return;
      }
      try {
        call->Send(Message(Answer(*index, *server, *request)));
      } catch (const protozero::exception&) {
        call->Finish({Code::kInvalidArgument, "the request is no ServerReflectionRequest"});
      }
    });
  };
  server->AddStream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", handler);
  server->AddStream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", handler);
}

}  // namespace mesh::rpc
