// A Triton server inside this process.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status.h"
#include "triton/handles.h"
#include "triton/infer.h"
#include "triton/live_calls.h"
#include "triton/open_calls.h"
#include "triton/options.h"
#include "triton/trace.h"

namespace mesh::triton {

constexpr std::int64_t kAnyVersion = -1;  // the one that the model's version policy chooses

// How the loading of one model went. The message of a failure is Triton's own.
struct ModelLoad {
  std::string name;
  Status status;
};

// What a model is loaded with instead of what its folder holds. The files' bytes must stay until the load has ended.
struct ModelOverride {
  std::optional<std::string> config;                                 // JSON
  std::vector<std::pair<std::string_view, std::string_view>> files;  // "file:<path>" and its bytes

  [[nodiscard]] bool nothing() const { return !config && files.empty(); }
};

enum class Dependents : std::uint8_t { kKeep, kUnload };

constexpr char kTritonThread[] = "triton";  // the name of all threads that Triton and its backends start

// Thread-safe. Names are those of the repository; a version of kAnyVersion leaves the choice to the model's policy.
class Server {
 public:
  // Versions of models that do not end before this does; `slot` is that of all of them, or OpenCalls::kAll.
  struct HeldVersions {
    std::vector<RequestHandle> references;
    std::size_t slot = OpenCalls::kAll;
  };

  // Loads the library and starts; returns when every wanted model is loaded or has failed to. A model that fails does
  // not fail the start: see loads(). Fails for a library, folder or option that does not work, and for a repository
  // without models.
  static Result<std::unique_ptr<Server>> Start(ServerOptions options);
  // Stop(). Must come after all other calls have returned.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Refuses new requests, waits for running ones up to the exit timeout, unloads the models. Repeatable. A response
  // that somebody still holds counts as running. UNAVAILABLE when something was left after the timeout.
  Status Stop();

  [[nodiscard]] std::vector<ModelLoad> loads() const;
  [[nodiscard]] bool IsLive() const;
  [[nodiscard]] bool IsReady() const;  // the server and every model that it was to load
  [[nodiscard]] Result<bool> IsModelReady(const std::string& model, std::int64_t version = kAnyVersion) const;

  // JSON texts as Triton writes them.
  [[nodiscard]] Result<std::string> Metadata() const;
  [[nodiscard]] Result<std::string> ModelMetadata(const std::string& model, std::int64_t version = kAnyVersion) const;
  [[nodiscard]] Result<std::string> ModelConfig(const std::string& model, std::int64_t version = kAnyVersion) const;
  // An empty name: all models.
  [[nodiscard]] Result<std::string> Statistics(const std::string& model, std::int64_t version = kAnyVersion) const;
  // Of the whole repository, or only of what is loaded and ready.
  [[nodiscard]] Result<std::string> Index(bool ready_only = false) const;
  // Prometheus text.
  [[nodiscard]] Result<std::string> Metrics() const;

  [[nodiscard]] const ServerOptions& options() const { return options_; }

  Status LoadModel(const std::string& model);
  Status UnloadModel(const std::string& model);

  // Because somebody asks for it; the message of a failure is Triton's own, to the letter. Returns when the model is
  // loaded, or has failed to be: what was loaded of it before serves until then, and goes on when it fails. What it
  // replaces is held, and must be given to End.
  Status LoadOnRequest(const std::string& model, const ModelOverride& with, HeldVersions* replaced);
  // Returns at once; readiness does not miss the model any more, nor what left with it: an ensemble leaves with its
  // parts. With its dependents, which are what an ensemble is made of. The models are held, and must be given to End.
  Status UnloadOnRequest(const std::string& model, Dependents dependents, HeldVersions* unloaded);
  // Gives up held versions; those that nobody else has end. Waits until requests of these models have been answered and
  // the models are gone, at most until `until`: then they end with their last request.
  void End(HeldVersions held, std::chrono::steady_clock::time_point until);
  // Unloads it and waits until its last request has ended. UNAVAILABLE when that is not before `until`.
  Status EndModel(const std::string& model, std::chrono::steady_clock::time_point until);
  // No model is being loaded or unloaded.
  [[nodiscard]] bool Settled() const;

  // Serves the models of another folder from now on (`models` empty: all of them). Each new model is loaded beside the
  // old one of its name; new requests then go to it, and Triton unloads the old one after its last request. Models that
  // the new folder does not have are unloaded, those that clients had loaded too. UNIMPLEMENTED where either folder has
  // an ensemble. When one cannot be loaded, everything goes back to the folder before,
  // and the status names the reason; FAILED_PRECONDITION when even that did not work: the server must be ended then.
  //
  // Both folders must be this process's own down to those of the models' versions, whose times it sets: Triton takes a
  // version for unchanged unless its folder is newer than the one before.
  Status SwitchRepository(const std::string& folder, const std::vector<std::string>& models);

  // Bits of TRITONSERVER_ModelTxnPropertyFlag and of TRITONSERVER_ModelBatchFlag.
  [[nodiscard]] Result<std::uint32_t> TransactionFlags(const char* model, std::int64_t version) const;
  [[nodiscard]] Result<std::uint32_t> BatchFlags(const char* model, std::int64_t version) const;

  // An empty request for a model that is ready; the caller fills it through Triton's C API.
  [[nodiscard]] Result<RequestHandle> NewRequest(const char* model, std::int64_t version) const;
  // Calls are known by their numbers, see LiveCalls; null unless the options want it.
  [[nodiscard]] const LiveCalls* live_calls() const { return live_calls_.get(); }
  // Runs it. On success `call` is told everything else; on failure it is never called. The bytes appended to the
  // request must stay until OnReleased.
  // `trace` may be null.
  Status Infer(RequestHandle request, const std::shared_ptr<InferCall>& call, TraceHandle trace = {}) const;

 private:
  explicit Server(ServerOptions options) : options_(std::move(options)) {}
  Status StartTriton();
  Status LoadModels();
  Status Explained(const ModelLoad& loaded);
  Result<std::vector<std::string>> WantedModels() const;
  [[nodiscard]] std::chrono::steady_clock::time_point UntilExit() const {
    return std::chrono::steady_clock::now() + std::chrono::seconds(options_.exit_timeout_s);
  }
  // server_end.cc. One model after the other, where ServerStop would end all at once.
  Status UnloadAll(std::chrono::steady_clock::time_point until);
  // Changes a model and waits until what served before has ended: its last request is answered, its memory returned.
  Status EndAfter(const std::string& model, Status (Server::*change)(const std::string& model),
                  std::chrono::steady_clock::time_point until);
  [[nodiscard]] HeldVersions HoldVersions(const std::string& model) const;
  [[nodiscard]] HeldVersions HoldWithDependents(const std::string& model) const;
  [[nodiscard]] bool IsEnsemble(const std::string& model) const;  // one that is loaded
  Result<std::vector<std::string>> ModelsIn(const std::set<std::string>& states) const;
  // server_control.cc
  void WantWhatServes(const std::string& loaded);
  [[nodiscard]] bool IsUnwanted(const std::string& model) const;
  // server_switch.cc
  Status ReplaceRepository(const std::string& before, const std::string& after);
  [[nodiscard]] Status RefuseEnsembles(const std::vector<std::string>& in_use, const std::string& folder) const;
  Status LoadFrom(const std::string& before, std::vector<ModelLoad>* loads);
  Status LoadEach(const std::string& before, std::vector<ModelLoad>* loads);
  Status GoBack(const ServerOptions& before, const std::vector<ModelLoad>& touched);

  ServerOptions options_;  // its repository and models change under switch_mutex_
  AllocatorHandle allocator_;
  TRITONSERVER_Server* server_ = nullptr;
  std::mutex switch_mutex_;
  std::timed_mutex end_mutex_;
  mutable std::mutex loads_mutex_;
  std::atomic<std::uint64_t> switches_{0};
  std::vector<ModelLoad> loads_;    // guarded by loads_mutex_
  std::set<std::string> unwanted_;  // left on request; guarded by loads_mutex_
  // Two callbacks for each call. On the heap, because it outlives a server that is kept.
  std::unique_ptr<OpenCalls> open_calls_ = std::make_unique<OpenCalls>();
  std::unique_ptr<LiveCalls> live_calls_;  // kept as open_calls_ is
  std::atomic<bool> stopped_{false};
  Status stop_status_;
  bool left_over_ = false;  // nothing runs, and yet Triton says that it has not ended
};

}  // namespace mesh::triton
