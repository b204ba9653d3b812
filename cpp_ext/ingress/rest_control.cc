// The REST methods that are answered at once.
#include <rapidjson/stringbuffer.h>

#include "ingress/rest_json.h"
#include "ingress/rest_service.h"
#include "ingress/rest_tensor.h"
#include "ingress/shared_memory_methods.h"
#include "ingress/text.h"

namespace mesh::ingress {
namespace {

// Of a control request; nobody's need is larger.
constexpr std::size_t kMaxBody = 64UL * 1024;

Result<std::string> OkOr(const Status& status) {
  if (!status.ok()) return status;
  return std::string();
}

void WriteMember(const char* name, const std::string& value, JsonWriter* out) {
  out->Key(name);
  out->String(value.data(), static_cast<rapidjson::SizeType>(value.size()));
}

}  // namespace

rapidjson::Document RestService::ParseBody(http::Exchange& exchange) {
  const std::string_view body = exchange.request().body().view();
  if (body.size() <= kMaxBody) return ParseJson(body);
  throw JsonFault{{Code::kInvalidArgument, "the body of this request may have " + std::to_string(kMaxBody) +
                                               " bytes, it has " + std::to_string(body.size())}};
}

Result<std::string> RestService::ServerMetadata(http::Exchange& /*exchange*/, const Route& /*route*/) {
  return service_.MetadataJson();
}

Result<std::string> RestService::ServerLive(http::Exchange& /*exchange*/, const Route& /*route*/) {
  return OkOr(triton_.IsLive() ? Status() : Status(Code::kInvalidArgument, "the server is not live"));
}

Result<std::string> RestService::ServerReady(http::Exchange& /*exchange*/, const Route& /*route*/) {
  return OkOr(service_.ready() ? Status() : Status(Code::kInvalidArgument, "the server is not ready"));
}

Result<std::string> RestService::ModelMetadata(http::Exchange& /*exchange*/, const Route& route) {
  Result<std::int64_t> version = ParseVersion(route.version);
  if (!version.ok()) return version.status();
  return triton_.ModelMetadata(route.model, version.value());
}

Result<std::string> RestService::ModelReady(http::Exchange& /*exchange*/, const Route& route) {
  Result<std::int64_t> version = ParseVersion(route.version);
  if (!version.ok()) return version.status();
  Result<bool> ready = triton_.IsModelReady(route.model, version.value());
  if (!ready.ok()) return ready.status();
  return OkOr(ready.value() ? Status() : Status(Code::kInvalidArgument, "Model version not ready"));
}

Result<std::string> RestService::ModelConfig(http::Exchange& /*exchange*/, const Route& route) {
  Result<std::int64_t> version = ParseVersion(route.version);
  if (!version.ok()) return version.status();
  return triton_.ModelConfig(route.model, version.value());
}

Result<std::string> RestService::ModelStatistics(http::Exchange& /*exchange*/, const Route& route) {
  Result<std::int64_t> version = ParseVersion(route.version);
  if (!version.ok()) return version.status();
  return triton_.Statistics(route.model, version.value());
}

// Of the one repository there is, whatever name the path has for it.
Result<std::string> RestService::RepositoryIndex(http::Exchange& exchange, const Route& /*route*/) {
  bool ready_only = false;
  if (!exchange.request().body().empty()) {
    const rapidjson::Document request = ParseBody(exchange);
    if (const Json* ready = FindMember(request, "ready"); ready != nullptr) ready_only = AsBool(*ready);
  }
  return triton_.Index(ready_only);
}

Result<std::string> RestService::SystemSharedMemoryStatus(http::Exchange& /*exchange*/, const Route& route) {
  const auto regions = service_.shared_memory().Describe(route.region);
  if (!regions.ok()) return regions.status();
  rapidjson::StringBuffer text;
  JsonWriter out(text);
  out.StartArray();
  for (const SharedMemory::Description& region : regions.value()) {
    out.StartObject();
    WriteMember("name", region.name, &out);
    WriteMember("key", region.key, &out);
    out.Key("offset");
    out.Uint64(region.offset);
    out.Key("byte_size");
    out.Uint64(region.byte_size);
    out.EndObject();
  }
  out.EndArray();
  return std::string(text.GetString(), text.GetSize());
}

Result<std::string> RestService::SystemSharedMemoryRegister(http::Exchange& exchange, const Route& route) {
  if (route.region.empty()) {
    return Status(Code::kInvalidArgument, "'region name' is necessary to register system shared memory region");
  }
  const rapidjson::Document request = ParseBody(exchange);
  Registration wanted;
  wanted.name = route.region;
  const Json* key = FindMember(request, "key");
  if (key == nullptr) return Status(Code::kInvalidArgument, "Shared memory register request has no 'key' field");
  wanted.key = std::string(AsString(*key));
  if (const Json* offset = FindMember(request, "offset"); offset != nullptr) wanted.offset = AsUint(*offset);
  const Json* byte_size = FindMember(request, "byte_size");
  if (byte_size == nullptr) {
    return Status(Code::kInvalidArgument, "Shared memory register request has no 'byte_size' field");
  }
  wanted.byte_size = AsUint(*byte_size);
  return OkOr(RegisterSharedMemory(service_.shared_memory(), exchange.peer(), wanted));
}

Result<std::string> RestService::SystemSharedMemoryUnregister(http::Exchange& /*exchange*/, const Route& route) {
  UnregisterSharedMemory(service_.shared_memory(), route.region);
  return std::string();
}

Result<std::string> RestService::CudaSharedMemoryStatus(http::Exchange& /*exchange*/, const Route& route) {
  if (Status status = FindCudaSharedMemory(route.region); !status.ok()) return status;
  return std::string("[]");
}

Result<std::string> RestService::CudaSharedMemoryRegister(http::Exchange& /*exchange*/, const Route& route) {
  if (route.region.empty()) {
    return Status(Code::kInvalidArgument, "'region name' is necessary to register cuda shared memory region");
  }
  return CudaSharedMemoryRefused();
}

Result<std::string> RestService::CudaSharedMemoryUnregister(http::Exchange& /*exchange*/, const Route& /*route*/) {
  return std::string();
}

}  // namespace mesh::ingress
