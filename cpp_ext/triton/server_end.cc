// How models end.
//
// A model of Triton 2.51 has a thread for each instance, and a list of those instances that wait for work. To end the
// thread, Triton sends it a last piece of work for the last instance of that list, which is empty while the thread is
// busy: also for the moment between answering (or having loaded the model) and waiting again. A model that is ended in
// that moment crashes the process. So the last reference to a model is kept here until its thread sleeps.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/poll.h"
#include "triton/library.h"
#include "triton/server.h"
#include "triton/threads.h"

namespace mesh::triton {
namespace {

using Clock = std::chrono::steady_clock;

const std::set<std::string> kInUse{"READY", "LOADING", "UNLOADING"};
constexpr char kEndThread[] = "model-end";
// Threads of other models may never be seen asleep, because they have too much to do.
constexpr std::chrono::seconds kLongestLook{1};

}  // namespace

Status Server::UnloadAll(Clock::time_point until) {
  Result<std::vector<std::string>> loaded = ModelsIn(kInUse);
  if (!loaded.ok()) return loaded.status();
  for (const std::string& name : loaded.value()) {
    if (Status status = EndModel(name, until); !status.ok()) return status;
  }
  return {};
}

Status Server::EndModel(const std::string& model, Clock::time_point until) {
  if (Status status = EndAfter(model, &Server::UnloadModel, until); !status.ok()) return status;
  // Triton tells nobody when a model is gone.
  Status looked;
  const bool gone = PollUntil(until, [&] {
    const Result<std::vector<std::string>> left = ModelsIn(kInUse);
    looked = left.status();
    return !left.ok() || std::find(left.value().begin(), left.value().end(), model) == left.value().end();
  });
  if (!looked.ok()) return looked;
  if (!gone) return {Code::kUnavailable, "model '" + model + "' is in use"};
  return {};
}

Status Server::EndAfter(const std::string& model, Status (Server::*change)(const std::string& model),
                        Clock::time_point until) {
  HeldVersions held = HoldVersions(model);
  if (Status status = (this->*change)(model); !status.ok()) return status;
  End(std::move(held), until);
  return {};
}

// Triton ends a model on a thread of its own, started by whoever gives up the last reference; here it is known by the
// name that it inherits. One ends after the other: it is not known what else of Triton's they would meet in.
void Server::End(HeldVersions held, Clock::time_point until) {
  if (held.references.empty()) return;
  static_cast<void>(open_calls_->Wait(held.slot, until));  // else the model ends with the request that takes so long
  const std::unique_lock<std::timed_mutex> ending(end_mutex_, until);
  SleepWatch instances(kTritonThread);
  static_cast<void>(PollUntil(Clock::now() + kLongestLook, [&] { return instances.Look(); }));
  const ThreadName named(kEndThread);
  for (RequestHandle& reference : held.references) {
    reference.reset();
    static_cast<void>(PollUntil(until, [] { return ThreadsNamed(kEndThread) <= 1; }));
  }
}

// A request keeps the version of the model that it is for.
Server::HeldVersions Server::HoldVersions(const std::string& model) const {
  HeldVersions held{{}, OpenCalls::SlotOf(model)};
  const Result<std::string> metadata = ModelMetadata(model);
  if (!metadata.ok()) return held;  // nothing serves yet
  const nlohmann::json parsed = nlohmann::json::parse(metadata.value(), nullptr, false);
  for (const nlohmann::json& version : parsed.value("versions", nlohmann::json::array())) {
    TRITONSERVER_InferenceRequest* raw = nullptr;
    const std::int64_t number = std::stoll(version.get<std::string>());
    if (ToStatus(GetApi().InferenceRequestNew(&raw, server_, model.c_str(), number)).ok())
      held.references.emplace_back(raw);
  }
  return held;
}

// All that a change of the model may end: an ensemble comes and goes with what it is made of.
Server::HeldVersions Server::HoldWithDependents(const std::string& model) const {
  if (!IsEnsemble(model)) return HoldVersions(model);
  HeldVersions held;
  const Result<std::vector<std::string>> ready = ModelsIn({"READY"});
  if (!ready.ok()) return held;
  for (const std::string& name : ready.value()) {
    HeldVersions versions = HoldVersions(name);
    std::move(versions.references.begin(), versions.references.end(), std::back_inserter(held.references));
  }
  return held;
}

}  // namespace mesh::triton
