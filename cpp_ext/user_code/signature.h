// What a deployment says of its inputs and outputs, as the configuration of a model.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "common/status.h"
#include "mesh/abi.h"
#include "triton/server.h"

namespace mesh::user {

class Signature {
 public:
  // Fills this; it must stay where it is meanwhile.
  [[nodiscard]] MeshSignatureSink sink();
  // Triton's configuration as JSON. FAILED_PRECONDITION names the tensor that is wrong.
  [[nodiscard]] Result<std::string> ModelConfig(const std::string& model, std::size_t threads) const;

 private:
  struct Tensor {
    std::string name;
    std::string datatype;
    std::vector<std::int64_t> shape;
    bool optional = false;
  };
  static Status Check(const std::vector<Tensor>& tensors, const char* what);

  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
  bool streamed_ = false;
};

// Whether the server's repository has a model of that name.
Result<bool> HasModel(const triton::Server& server, const std::string& model);

}  // namespace mesh::user
