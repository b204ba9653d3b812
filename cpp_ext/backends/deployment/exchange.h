// One request of Triton's, as the replica is given it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "backends/common/backend_api.h"
#include "backends/common/request.h"
#include "backends/deployment/host.h"
#include "common/status.h"

struct MeshBackendExchange {
 public:
  MeshBackendExchange(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request);
  MeshBackendExchange(const MeshBackendExchange&) = delete;
  MeshBackendExchange& operator=(const MeshBackendExchange&) = delete;

  // Views of all that the request holds.
  mesh::Status Read();
  [[nodiscard]] const MeshBackendRequest& view() const { return view_; }
  static const MeshBackendCalls& Calls();

  [[nodiscard]] bool cancelled() const { return mesh::backend::IsCancelled(request_); }
  mesh::Status Output(const char* name, const char* datatype, const std::int64_t* shape, std::size_t dims,
                      std::size_t size, void** data);
  mesh::Status SetParameter(const MeshValue& value);
  mesh::Status Send();
  void Finish(const mesh::Status& status);
  // Gives the request back to Triton and ends this.
  void Release();

 private:
  mesh::Status ReadInputs();
  mesh::Status ReadInput(std::uint32_t index);
  mesh::Status ReadParameters();
  mesh::Status NeedResponse();

  TRITONBACKEND_ModelInstance* const instance_;
  TRITONBACKEND_Request* const request_;
  mesh::backend::Timeline times_;
  mesh::backend::Response response_;
  bool sent_ = false;  // one of several
  MeshBackendRequest view_{};
  std::vector<MeshTensor> inputs_;
  std::vector<std::string> pieces_;  // inputs that did not lie in one piece
  std::vector<std::string> output_names_;
  std::vector<const char*> outputs_;
  std::vector<MeshValue> parameters_;
};
