// grpc.reflection.v1 and v1alpha: tools such as grpcurl learn from the server itself what it offers.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "rpc/server.h"

namespace mesh::rpc {

// Serialized google.protobuf.FileDescriptorSets that are compiled in; more by CMake's mesh_embed_descriptors().
std::string_view OpenInferenceDescriptors();  // inference.GRPCInferenceService
std::string_view HealthDescriptors();         // grpc.health.v1
std::string_view ReflectionDescriptors();     // grpc.reflection.v1 and v1alpha

class DescriptorIndex;

class ReflectionService {
 public:
  // The sets' memory must outlive the server. Health's and reflection's own are always there. INVALID_ARGUMENT for a
  // set that is none.
  static Result<std::unique_ptr<ReflectionService>> Create(const std::vector<std::string_view>& descriptor_sets);
  ~ReflectionService();

  // Before the server's Start. Lists the services of all methods that the server has when it is asked.
  void Register(Server* server);

 private:
  explicit ReflectionService(std::shared_ptr<const DescriptorIndex> index);
  std::shared_ptr<const DescriptorIndex> index_;
};

}  // namespace mesh::rpc
