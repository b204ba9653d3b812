#include "ingress/shared_memory_methods.h"

#include <protozero/pbf_writer.hpp>

#include "ingress/control_method.h"
#include "ingress/infer_message.h"
#include "ingress/message_reading.h"

namespace mesh::ingress {
namespace {

using protozero::pbf_wire_type;
using protozero::tag_and_type;

// inference.SystemSharedMemoryRegisterRequest
Result<Registration> ParseRegistration(std::string_view bytes) {
  Registration parsed;
  Status status = ParseGuarded("SystemSharedMemoryRegisterRequest", [&] {
    protozero::pbf_reader reader = ReaderOf(bytes);
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case tag_and_type(1, pbf_wire_type::length_delimited): parsed.name = ReadText(&reader, "name"); break;
        case tag_and_type(2, pbf_wire_type::length_delimited): parsed.key = ReadText(&reader, "key"); break;
        case tag_and_type(3, pbf_wire_type::varint): parsed.offset = reader.get_uint64(); break;
        case tag_and_type(4, pbf_wire_type::varint): parsed.byte_size = reader.get_uint64(); break;
        default: reader.skip();
      }
    }
  });
  if (!status.ok()) return status;
  return parsed;
}

Result<std::string> Register(SharedMemory& memory, const rpc::ServerCall& call, std::string_view request) {
  Result<Registration> parsed = ParseRegistration(request);
  if (!parsed.ok()) return parsed.status();
  if (Status status = RegisterSharedMemory(memory, call.peer(), parsed.value()); !status.ok()) return status;
  return std::string();
}

Result<std::string> Unregister(SharedMemory& memory, std::string_view request) {
  Result<ModelMessage> parsed = ParseModelMessage(request);  // a name alone
  if (!parsed.ok()) return parsed.status();
  UnregisterSharedMemory(memory, std::string(parsed.value().name));
  return std::string();
}

Result<std::string> Describe(const SharedMemory& memory, std::string_view request) {
  Result<ModelMessage> parsed = ParseModelMessage(request);
  if (!parsed.ok()) return parsed.status();
  const auto found = memory.Describe(std::string(parsed.value().name));
  if (!found.ok()) return found.status();
  std::string encoded;  // inference.SystemSharedMemoryStatusResponse
  protozero::pbf_writer out(encoded);
  for (const SharedMemory::Description& region : found.value()) {
    protozero::pbf_writer entry(out, 1);
    entry.add_string(1, region.name);
    protozero::pbf_writer value(entry, 2);
    value.add_string(1, region.name);
    value.add_string(2, region.key);
    if (region.offset != 0) value.add_uint64(3, region.offset);
    value.add_uint64(4, region.byte_size);
  }
  return encoded;
}

Result<std::string> DescribeCuda(std::string_view request) {
  Result<ModelMessage> parsed = ParseModelMessage(request);
  if (!parsed.ok()) return parsed.status();
  if (Status status = FindCudaSharedMemory(std::string(parsed.value().name)); !status.ok()) return status;
  return std::string();
}

}  // namespace

Status RegisterSharedMemory(SharedMemory& memory, std::string_view peer, const Registration& wanted) {
  if (!IsLocalPeer(peer)) {
    return {Code::kPermissionDenied, "shared memory is for clients on the host of this server, not for " +
                                         std::string(peer) + "; send the tensors in the request"};
  }
  if (wanted.name.empty()) return {Code::kInvalidArgument, "a shared memory region needs a name"};
  return memory.Register(wanted.name, wanted.key, wanted.offset, wanted.byte_size);
}

void UnregisterSharedMemory(SharedMemory& memory, const std::string& name) {
  if (name.empty()) {
    memory.UnregisterAll();
  } else {
    memory.Unregister(name);
  }
}

Status CudaSharedMemoryRefused() {
  return {Code::kInvalidArgument,
          "failed to register CUDA shared memory region: this server has no GPU support; use system shared memory"};
}

Status FindCudaSharedMemory(const std::string& name) {
  if (name.empty()) return {};
  return {Code::kNotFound, "Unable to find cuda shared memory region: '" + name + "'"};
}

void AddSharedMemoryMethods(rpc::Server& server, metrics::Registry& registry, SharedMemory& memory) {
  using Call = rpc::ServerCall;
  using Bytes = std::string_view;
  AddControlMethod(server, registry, "SystemSharedMemoryRegister",
                   [&memory](const Call& call, Bytes request) { return Register(memory, call, request); });
  AddControlMethod(server, registry, "SystemSharedMemoryUnregister",
                   [&memory](const Call&, Bytes request) { return Unregister(memory, request); });
  AddControlMethod(server, registry, "SystemSharedMemoryStatus",
                   [&memory](const Call&, Bytes request) { return Describe(memory, request); });
  AddControlMethod(server, registry, "CudaSharedMemoryRegister",
                   [](const Call&, Bytes) -> Result<std::string> { return CudaSharedMemoryRefused(); });
  AddControlMethod(server, registry, "CudaSharedMemoryUnregister",
                   [](const Call&, Bytes) -> Result<std::string> { return std::string(); });
  AddControlMethod(server, registry, "CudaSharedMemoryStatus",
                   [](const Call&, Bytes request) { return DescribeCuda(request); });
}

}  // namespace mesh::ingress
