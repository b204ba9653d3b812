// Server::SwitchRepository.
#include <algorithm>
#include <chrono>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "common/file.h"
#include "common/log.h"
#include "triton/library.h"
#include "triton/server.h"

namespace mesh::triton {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

// The latest time of a model's folder and everything in it. What cannot be read counts for nothing.
fs::file_time_type NewestTime(const fs::path& model) {
  std::error_code error;
  fs::file_time_type newest = fs::last_write_time(model, error);
  if (error) return fs::file_time_type::min();
  fs::recursive_directory_iterator at(model, fs::directory_options::follow_directory_symlink, error);
  for (const fs::recursive_directory_iterator end; !error && at != end; at.increment(error)) {
    std::error_code gone;
    const fs::file_time_type time = fs::last_write_time(at->path(), gone);
    if (!gone) newest = std::max(newest, time);
  }
  return newest;
}

Status SetTime(const fs::path& folder, fs::file_time_type time) {
  std::error_code error;
  fs::last_write_time(folder, time, error);
  if (!error) return {};
  return {Code::kInternal, "cannot set the time of the model's folder '" + folder.string() + "': " + error.message()};
}

// Makes the folders of a model and of its versions newer than what was loaded before, whatever the clock did in
// between.
Status MakeNewer(const fs::path& model, const fs::path& before) {
  const fs::file_time_type older = NewestTime(before);
  if (older == fs::file_time_type::min()) return {};  // it is new
  const auto time = std::max(fs::file_time_type::clock::now(), older + milliseconds(1));
  std::error_code error;
  for (fs::directory_iterator at(model, error), end; !error && at != end; at.increment(error)) {
    if (at->is_symlink() || !at->is_directory()) continue;
    if (Status status = SetTime(at->path(), time); !status.ok()) return status;
  }
  return SetTime(model, time);
}

bool Names(const std::vector<ModelLoad>& loads, const std::string& name) {
  return std::any_of(loads.begin(), loads.end(), [&name](const ModelLoad& load) { return load.name == name; });
}

}  // namespace

Status Server::SwitchRepository(const std::string& folder, const std::vector<std::string>& models) {
  const std::lock_guard<std::mutex> switching(switch_mutex_);
  const ServerOptions before = options_;
  const std::string to = fs::absolute(folder).string();
  // What clients have loaded too. Later the index has only what the new folder holds.
  Result<std::vector<std::string>> in_use = ModelsIn({"READY", "LOADING"});
  if (!in_use.ok()) return in_use.status();
  if (Status status = RefuseEnsembles(in_use.value(), to); !status.ok()) return status;
  if (Status status = ReplaceRepository(before.repository, to); !status.ok()) return status;
  options_.repository = to;
  options_.models = models;
  std::vector<ModelLoad> loads;
  if (Status failed = LoadFrom(before.repository, &loads); !failed.ok()) {
    const Status back = GoBack(before, loads);
    if (back.ok()) return failed;
    return {Code::kFailedPrecondition,
            failed.message() + "; and the models before could not be restored: " + back.message()};
  }
  {  // first, because a server is not ready when it lacks a model that it is to have
    const std::lock_guard<std::mutex> lock(loads_mutex_);
    loads_ = loads;
    ++switches_;
    unwanted_.clear();
  }
  for (const std::string& name : in_use.value()) {
    if (Names(loads, name)) continue;
    const Status unloaded = EndAfter(name, &Server::UnloadModel, UntilExit());
    // The new models serve, whatever becomes of this one.
    if (!unloaded.ok()) log::Warning("model not unloaded", {{"model", name}, {"reason", unloaded.message()}});
  }
  return {};
}

// Triton loads an ensemble together with what it is made of, in an order of its own: its parts can be replaced neither
// one by one nor without a moment in which they do not fit together.
Status Server::RefuseEnsembles(const std::vector<std::string>& in_use, const std::string& folder) const {
  std::string found;
  for (const std::string& name : in_use) {
    if (IsEnsemble(name)) found = name;
  }
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const Result<std::string> config = ReadFile((at->path() / "config.pbtxt").string());
    const bool ensemble = config.ok() && (config.value().find("ensemble_scheduling") != std::string::npos ||
                                          config.value().find("\"ensemble\"") != std::string::npos);
    if (ensemble) found = at->path().filename().string();
  }
  if (found.empty()) return {};
  return {Code::kUnimplemented, "model '" + found +
                                    "' is an ensemble, and these cannot be updated in place: use "
                                    "`update: replace`"};
}

// Triton refuses to load a model that two repositories have, so there is only ever one. What is loaded stays.
Status Server::ReplaceRepository(const std::string& before, const std::string& after) {
  const Api& api = GetApi();
  Status status = ToStatus(api.ServerRegisterModelRepository(server_, after.c_str(), nullptr, 0));
  if (!status.ok()) return status;
  status = ToStatus(api.ServerUnregisterModelRepository(server_, fs::absolute(before).c_str()));
  if (!status.ok()) static_cast<void>(ToStatus(api.ServerUnregisterModelRepository(server_, after.c_str())));
  return status;
}

Status Server::LoadFrom(const std::string& before, std::vector<ModelLoad>* loads) {
  try {
    return LoadEach(before, loads);
  } catch (const std::exception& error) {
    return {Code::kInternal, std::string("loading the models ended with an exception: ") + error.what()};
  }
}

// Up to the first that fails; `loads` then names those that may have changed.
Status Server::LoadEach(const std::string& before, std::vector<ModelLoad>* loads) {
  Result<std::vector<std::string>> wanted = WantedModels();
  if (!wanted.ok()) return wanted.status();
  for (const std::string& name : wanted.value()) {
    const fs::path model = fs::path(options_.repository) / name;
    Status status = MakeNewer(model, fs::path(before) / name);
    if (!status.ok()) return status;
    loads->push_back({name, EndAfter(name, &Server::LoadModel, UntilExit())});
    if (!loads->back().status.ok()) return Explained(loads->back());
  }
  return {};
}

Status Server::GoBack(const ServerOptions& before, const std::vector<ModelLoad>& touched) {
  const std::string from = std::exchange(options_, before).repository;
  if (Status status = ReplaceRepository(from, before.repository); !status.ok()) return status;
  const std::vector<ModelLoad> old = loads();
  for (const ModelLoad& load : touched) {
    if (!Names(old, load.name)) {
      // Nobody has asked for it yet.
      if (load.status.ok()) static_cast<void>(EndAfter(load.name, &Server::UnloadModel, UntilExit()));
      continue;
    }
    if (!load.status.ok()) continue;  // the old one still serves
    Status status = MakeNewer(fs::path(before.repository) / load.name, fs::path(from) / load.name);
    if (status.ok()) status = EndAfter(load.name, &Server::LoadModel, UntilExit());
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace mesh::triton
