#include "ingress/shared_memory_methods.h"

#include <string>
#include <string_view>

#include "ingress/control_method.h"
#include "ingress/infer_message.h"
#include "ingress/message_reading.h"

namespace mesh::ingress {
namespace {

using protozero::pbf_wire_type;
using protozero::tag_and_type;

// inference.SystemSharedMemoryRegisterRequest
struct Registration {
  std::string name;
  std::string key;
  std::uint64_t offset = 0;
  std::uint64_t byte_size = 0;
};

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
  if (!IsLocalPeer(call.peer())) {
    return Status(Code::kPermissionDenied, "shared memory is for clients on the host of this server, not for " +
                                               std::string(call.peer()) + "; send the tensors in the request");
  }
  Result<Registration> parsed = ParseRegistration(request);
  if (!parsed.ok()) return parsed.status();
  const Registration& wanted = parsed.value();
  if (wanted.name.empty()) return Status(Code::kInvalidArgument, "a shared memory region needs a name");
  if (Status status = memory.Register(wanted.name, wanted.key, wanted.offset, wanted.byte_size); !status.ok()) {
    return status;
  }
  return std::string();
}

Result<std::string> Unregister(SharedMemory& memory, std::string_view request) {
  Result<ModelMessage> parsed = ParseModelMessage(request);  // a name alone
  if (!parsed.ok()) return parsed.status();
  if (parsed.value().name.empty()) {
    memory.UnregisterAll();
  } else {
    memory.Unregister(std::string(parsed.value().name));
  }
  return std::string();
}

Result<std::string> Describe(const SharedMemory& memory, std::string_view request) {
  Result<ModelMessage> parsed = ParseModelMessage(request);
  if (!parsed.ok()) return parsed.status();
  return memory.Describe(std::string(parsed.value().name));
}

Result<std::string> DescribeCuda(std::string_view request) {
  Result<ModelMessage> parsed = ParseModelMessage(request);
  if (!parsed.ok()) return parsed.status();
  if (parsed.value().name.empty()) return std::string();
  return Status(Code::kNotFound,
                "Unable to find cuda shared memory region: '" + std::string(parsed.value().name) + "'");
}

}  // namespace

void AddSharedMemoryMethods(rpc::Server& server, metrics::Registry& registry, SharedMemory& memory) {
  using Call = rpc::ServerCall;
  using Bytes = std::string_view;
  AddControlMethod(server, registry, "SystemSharedMemoryRegister",
                   [&memory](const Call& call, Bytes request) { return Register(memory, call, request); });
  AddControlMethod(server, registry, "SystemSharedMemoryUnregister",
                   [&memory](const Call&, Bytes request) { return Unregister(memory, request); });
  AddControlMethod(server, registry, "SystemSharedMemoryStatus",
                   [&memory](const Call&, Bytes request) { return Describe(memory, request); });
  AddControlMethod(server, registry, "CudaSharedMemoryRegister", [](const Call&, Bytes) -> Result<std::string> {
    return Status(Code::kInvalidArgument,
                  "failed to register CUDA shared memory region: this server has no GPU support; use system shared "
                  "memory");
  });
  AddControlMethod(server, registry, "CudaSharedMemoryUnregister",
                   [](const Call&, Bytes) -> Result<std::string> { return std::string(); });
  AddControlMethod(server, registry, "CudaSharedMemoryStatus",
                   [](const Call&, Bytes request) { return DescribeCuda(request); });
}

}  // namespace mesh::ingress
