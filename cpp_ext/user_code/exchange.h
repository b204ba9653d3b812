// One request in the hands of the user's code.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/deployment/host.h"
#include "common/status.h"
#include "mesh/abi.h"
#include "triton/infer.h"
#include "triton/live_calls.h"

// Made for each request that Triton hands over; ends with release.
struct MeshExchange {
 public:
  MeshExchange(MeshBackendExchange* inner, const MeshBackendRequest& request, const MeshBackendCalls& calls,
               const mesh::triton::LiveCalls& live);
  MeshExchange(const MeshExchange&) = delete;
  MeshExchange& operator=(const MeshExchange&) = delete;

  [[nodiscard]] const MeshRequest& view() const { return view_; }
  [[nodiscard]] const mesh::triton::CallFacts& facts() const { return facts_; }
  // The client's; null when it has none of ours.
  [[nodiscard]] const std::shared_ptr<mesh::triton::InferCall>& call() const { return call_; }
  [[nodiscard]] bool cancelled() const;
  // Why it is cancelled: CANCELLED, or DEADLINE_EXCEEDED.
  [[nodiscard]] mesh::Status CancelledStatus() const;
  void Finish(mesh::Status status);
  void Release();

  // Fills the functions of an exchange in.
  static void SetFunctions(MeshHost* host);

 private:
  void ReadParameters(const MeshBackendRequest& request, const mesh::triton::LiveCalls& live);
  [[nodiscard]] std::size_t unread_bytes() const { return facts_.unread_bytes ? facts_.unread_bytes() : 0; }
  mesh::Status Send(bool wait);
  [[nodiscard]] mesh::Status WaitForReader() const;

  MeshBackendExchange* const inner_;
  const MeshBackendCalls& calls_;
  std::shared_ptr<mesh::triton::InferCall> call_;
  mesh::triton::CallFacts facts_;
  std::vector<MeshValue> parameters_;
  std::vector<MeshMetadata> metadata_;
  MeshRequest view_{};
};

namespace mesh::user {

// What clients are told of a failure of the user's code: without the words by which they would take the request for one
// that never began, and send it again although it may not run twice.
Status AsBegun(Status status);

}  // namespace mesh::user
