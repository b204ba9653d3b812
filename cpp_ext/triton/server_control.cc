// What clients ask a Server to do with its models.
#include "triton/library.h"
#include "triton/server.h"

namespace mesh::triton {
namespace {

const std::set<std::string> kChanging{"LOADING", "UNLOADING"};

}  // namespace

Status Server::LoadOnRequest(const std::string& model, const ModelOverride& with) {
  const std::lock_guard<std::mutex> switching(switch_mutex_);
  const Api& api = GetApi();
  std::vector<ParameterHandle> owned;
  std::vector<const TRITONSERVER_Parameter*> parameters;
  if (with.config) {
    owned.emplace_back(api.ParameterNew("config", TRITONSERVER_PARAMETER_STRING, with.config->c_str()));
  }
  for (const auto& [name, bytes] : with.files) {
    owned.emplace_back(api.ParameterBytesNew(std::string(name).c_str(), bytes.data(), bytes.size()));
  }
  parameters.reserve(owned.size());
  for (const ParameterHandle& parameter : owned) parameters.push_back(parameter.get());
  Status status = ToStatus(
      with.nothing() ? api.ServerLoadModel(server_, model.c_str())
                     : api.ServerLoadModelWithParameters(server_, model.c_str(), parameters.data(), parameters.size()));
  if (status.ok()) SetUnwanted(model, false);
  return status;
}

Status Server::UnloadOnRequest(const std::string& model, Dependents dependents) {
  const std::lock_guard<std::mutex> switching(switch_mutex_);
  const Api& api = GetApi();
  Status status =
      ToStatus(dependents == Dependents::kUnload ? api.ServerUnloadModelAndDependents(server_, model.c_str())
                                                 : api.ServerUnloadModel(server_, model.c_str()));
  if (status.ok()) SetUnwanted(model, true);
  return status;
}

bool Server::Settled() const {
  const Result<std::vector<std::string>> changing = ModelsIn(kChanging);
  return changing.ok() && changing.value().empty();
}

void Server::SetUnwanted(const std::string& model, bool unwanted) {
  const std::lock_guard<std::mutex> lock(loads_mutex_);
  if (unwanted) {
    unwanted_.insert(model);
  } else {
    unwanted_.erase(model);
  }
}

bool Server::IsUnwanted(const std::string& model) const {
  const std::lock_guard<std::mutex> lock(loads_mutex_);
  return unwanted_.count(model) != 0;
}

}  // namespace mesh::triton
