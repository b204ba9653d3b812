#include "user_code/signature.h"

#include <nlohmann/json.hpp>
#include <set>

#include "backends/deployment/host.h"
#include "triton/datatype.h"

namespace mesh::user {
namespace {

using nlohmann::json;

// As a configuration has it: "TYPE_FP32", and "TYPE_STRING" for BYTES.
std::string TypeName(const std::string& datatype) { return "TYPE_" + (datatype == "BYTES" ? "STRING" : datatype); }

json TensorJson(const std::string& name, const std::string& datatype, const std::vector<std::int64_t>& shape) {
  return {{"name", name}, {"data_type", TypeName(datatype)}, {"dims", shape}};
}

}  // namespace

MeshSignatureSink Signature::sink() {
  return {this,
          [](void* self, const char* name, const char* datatype, const std::int64_t* shape, std::size_t dims,
             std::int32_t optional) {
            static_cast<Signature*>(self)->inputs_.push_back({name, datatype, {shape, shape + dims}, optional != 0});
          },
          [](void* self, const char* name, const char* datatype, const std::int64_t* shape, std::size_t dims) {
            static_cast<Signature*>(self)->outputs_.push_back({name, datatype, {shape, shape + dims}, false});
          },
          [](void* self) { static_cast<Signature*>(self)->streamed_ = true; }};
}

Status Signature::Check(const std::vector<Tensor>& tensors, const char* what) {
  const auto wrong = [what](const std::string& text) {
    return Status(Code::kFailedPrecondition, "Describe gives " + std::string(what) + text);
  };
  if (tensors.empty()) return wrong("s, of which there must be at least one");
  std::set<std::string> names;
  for (const Tensor& tensor : tensors) {
    if (tensor.name.empty()) return wrong(" without a name");
    if (!names.insert(tensor.name).second) return wrong(" '" + tensor.name + "' twice");
    if (triton::ParseDataType(tensor.datatype) == TRITONSERVER_TYPE_INVALID) {
      return wrong(" '" + tensor.name + "' with the datatype '" + tensor.datatype +
                   "'; there are BOOL, INT8 to INT64, UINT8 to UINT64, FP16, BF16, FP32, FP64 and BYTES");
    }
    if (tensor.shape.empty()) return wrong(" '" + tensor.name + "' without a shape; one value has the shape {1}");
    for (const std::int64_t dim : tensor.shape) {
      if (dim == 0 || dim < -1) {
        return wrong(" '" + tensor.name + "' with a dimension of " + std::to_string(dim) + "; -1 is any");
      }
    }
  }
  return {};
}

Result<std::string> Signature::ModelConfig(const std::string& model, std::size_t threads) const {
  if (Status status = Check(inputs_, "input"); !status.ok()) return status;
  if (Status status = Check(outputs_, "output"); !status.ok()) return status;
  json inputs = json::array();
  for (const Tensor& tensor : inputs_) {
    inputs.push_back(TensorJson(tensor.name, tensor.datatype, tensor.shape));
    if (tensor.optional) inputs.back()["optional"] = true;
  }
  json outputs = json::array();
  for (const Tensor& tensor : outputs_) outputs.push_back(TensorJson(tensor.name, tensor.datatype, tensor.shape));
  json config{{"name", model},
              {"backend", MESH_BACKEND_NAME},
              {"max_batch_size", 0},
              {"input", std::move(inputs)},
              {"output", std::move(outputs)},
              {"instance_group", {{{"kind", "KIND_CPU"}, {"count", threads}}}}};
  if (streamed_) config["model_transaction_policy"] = {{"decoupled", true}};
  return config.dump();
}

Result<bool> HasModel(const triton::Server& server, const std::string& model) {
  const Result<std::string> index = server.Index();
  if (!index.ok()) return index.status();
  const json parsed = json::parse(index.value(), nullptr, false);
  for (const json& entry : parsed) {
    if (entry.value("name", "") == model) return true;
  }
  return false;
}

}  // namespace mesh::user
