// What routing needs of a request, read without decoding its tensors.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"
#include "routing/traffic.h"
#include "rpc/message.h"
#include "rpc/server.h"

namespace mesh::proxy {

// Metadata that a client may send to a proxy.
inline constexpr char kDeploymentKey[] = "mesh-deployment";    // only endpoints of this deployment are asked
inline constexpr char kRetryKey[] = "mesh-retry";              // "never": not executed a second time
inline constexpr char kApplicationKey[] = "mesh-application";  // at the edge: "namespace/application"
// "1": this is a copy, whose answer is dropped; it is not copied again.
inline constexpr char kShadowKey[] = "mesh-shadow";

struct RequestHead {
  std::string deployment;  // "" is any, as for the next two
  std::string model;
  std::string version;
  std::string sequence;  // the id as text; empty: not of a sequence
  bool sequence_start = false;
  bool sequence_end = false;
  std::string hash;  // what the policy's hash key holds; empty: nothing
  bool retry_safe = true;
  bool sided = false;    // `sides` were chosen
  routing::Sides sides;  // of traffic splits, for all that is done with the request
  std::string shadow;    // the deployment that gets a copy; empty: none
  std::string renaming;  // bytes that follow the request's own, which name the model anew; empty: none

  // Of a running sequence: only the endpoint that has its state can answer.
  [[nodiscard]] bool pinned() const { return !sequence.empty() && !sequence_start; }
  // All that says which endpoints may answer: deployment, model, version and sides.
  [[nodiscard]] std::string target() const;
  // By which proxies agree about a sequence; empty: not of one.
  [[nodiscard]] std::string sequence_name() const { return sequence.empty() ? sequence : model + '\0' + sequence; }

  // The model has this name at its endpoints. Of a field that is not repeated the last one counts, and in all requests
  // that name a model this is field 1: so the message need not be written anew.
  void Rename(std::string own);
};

// The request as it is sent: with the model's other name behind it, where it has one.
rpc::Message WithName(const RequestHead& head, const rpc::Slice& request);

// Of inference.ModelInferRequest. INTERNAL, as every gRPC server says it, for bytes that are no such message.
Status ReadInferHead(std::string_view request, RequestHead* head);
// Of the requests that begin with a model's name and version (ModelReady, ModelMetadata, ModelConfig, ModelStatistics).
Status ReadModelHead(std::string_view request, RequestHead* head);
// What the metadata says; `hash_key` may be empty.
void ReadMetadataHead(const rpc::Metadata& metadata, const std::string& hash_key, RequestHead* head);

}  // namespace mesh::proxy
