// What clients ask a Server to do with its models.
#include "triton/library.h"
#include "triton/server.h"
#include "triton/threads.h"

namespace mesh::triton {
namespace {

const std::set<std::string> kServing{"READY"};
const std::set<std::string> kChanging{"LOADING", "UNLOADING"};

}  // namespace

Status Server::LoadOnRequest(const std::string& model, const ModelOverride& with, HeldVersions* replaced) {
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
  *replaced = HoldWithDependents(model);
  const ThreadName named(kTritonThread);
  Status status = ToStatus(
      with.nothing() ? api.ServerLoadModel(server_, model.c_str())
                     : api.ServerLoadModelWithParameters(server_, model.c_str(), parameters.data(), parameters.size()));
  if (status.ok()) WantWhatServes(model);
  return status;
}

Status Server::UnloadOnRequest(const std::string& model, Dependents dependents, HeldVersions* unloaded) {
  const std::lock_guard<std::mutex> switching(switch_mutex_);
  const Api& api = GetApi();
  Result<std::vector<std::string>> before = ModelsIn(kServing);
  if (!before.ok()) return before.status();
  *unloaded = HoldWithDependents(model);
  Status status =
      ToStatus(dependents == Dependents::kUnload ? api.ServerUnloadModelAndDependents(server_, model.c_str())
                                                 : api.ServerUnloadModel(server_, model.c_str()));
  if (!status.ok()) return status;
  const Result<std::vector<std::string>> after = ModelsIn(kServing);
  if (!after.ok()) return after.status();
  const std::set<std::string> left(after.value().begin(), after.value().end());
  const std::lock_guard<std::mutex> lock(loads_mutex_);
  unwanted_.insert(model);
  for (std::string& name : before.value()) {
    if (left.count(name) == 0) unwanted_.insert(std::move(name));
  }
  return status;
}

bool Server::Settled() const {
  const Result<std::vector<std::string>> changing = ModelsIn(kChanging);
  return changing.ok() && changing.value().empty();
}

// With a part comes the ensemble that had left with it.
void Server::WantWhatServes(const std::string& loaded) {
  const Result<std::vector<std::string>> serving = ModelsIn(kServing);
  const std::lock_guard<std::mutex> lock(loads_mutex_);
  unwanted_.erase(loaded);
  if (!serving.ok()) return;
  for (const std::string& name : serving.value()) unwanted_.erase(name);
}

bool Server::IsUnwanted(const std::string& model) const {
  const std::lock_guard<std::mutex> lock(loads_mutex_);
  return unwanted_.count(model) != 0;
}

}  // namespace mesh::triton
