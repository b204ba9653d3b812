#include "triton/server.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>
#include <utility>

#include "common/log.h"
#include "common/poll.h"
#include "triton/library.h"
#include "triton/poll_failure.h"
#include "triton/threads.h"

namespace mesh::triton {
namespace {

namespace fs = std::filesystem;

// Runs a function that gives out a message and returns its JSON.
template <typename Function>
Result<std::string> JsonOf(Function function) {
  TRITONSERVER_Message* raw = nullptr;
  if (Status status = ToStatus(function(&raw)); !status.ok()) return status;
  return ToJson(MessageHandle(raw));
}

// A backend is opened by Triton from wherever it is linked to, where its own run path may not reach the libraries
// beside Triton's. A failure is not ours to report: Triton names it when a model wants that backend.
void OpenBackendDependencies(const std::string& folder) {
  std::error_code error;
  for (const fs::directory_entry& backend : fs::directory_iterator(folder, error)) {
    const std::string name = backend.path().filename().string();
    const fs::path library = backend.path() / ("libtriton_" + name + ".so");
    if (fs::exists(library, error)) static_cast<void>(OpenDependencies(library.string()));
  }
}

// Instead of the "unknown model" that Triton would answer once it has unloaded everything.
Status Stopped() { return {Code::kUnavailable, "Triton is stopped; send the request to another endpoint"}; }

// Triton ends some messages with a line break or a semicolon and one.
Status Tidy(const Status& status) {
  std::string message = status.message();
  while (!message.empty() && (message.back() == '\n' || message.back() == ';' || message.back() == ' ')) {
    message.pop_back();
  }
  return {status.code(), std::move(message)};
}

}  // namespace

Result<std::unique_ptr<Server>> Server::Start(ServerOptions options) {
  if (Status status = LoadLibrary(options.library); !status.ok()) return status;
  std::unique_ptr<Server> server(new Server(std::move(options)));
  if (server->options_.runs_code) server->live_calls_ = std::make_unique<LiveCalls>();
  if (Status status = server->StartTriton(); !status.ok()) return status;
  if (Status status = server->LoadModels(); !status.ok()) return status;
  return server;
}

Status Server::StartTriton() {
  Result<AllocatorHandle> allocator = InferCallbacks::NewAllocator();
  if (!allocator.ok()) return allocator.status();
  allocator_ = std::move(allocator).value();
  if (options_.backend_directory.empty()) {
    options_.backend_directory = (fs::path(GetApi().path).parent_path().parent_path() / "backends").string();
  }
  if (options_.cache_directory.empty()) {
    options_.cache_directory = (fs::path(GetApi().path).parent_path().parent_path() / "caches").string();
  }
  Result<ServerOptionsHandle> made = MakeOptions(options_);
  if (!made.ok()) return made.status();
  OpenBackendDependencies(options_.backend_directory);
  const ThreadName named(kTritonThread);
  return ToStatus(GetApi().ServerNew(&server_, made.value().get()));
}

Result<std::vector<std::string>> Server::WantedModels() const {
  if (!options_.models.empty()) return options_.models;
  Result<std::string> index = Index();
  if (!index.ok()) return index.status();
  std::vector<std::string> names;
  const nlohmann::json parsed = nlohmann::json::parse(index.value(), nullptr, false);
  for (const nlohmann::json& entry : parsed) names.push_back(entry.value("name", ""));
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  if (names.empty() && !options_.runs_code) {
    return Status(Code::kInvalidArgument, "model repository '" + options_.repository + "' holds no models");
  }
  return names;
}

Status Server::LoadModels() {
  Result<std::vector<std::string>> wanted = WantedModels();
  if (!wanted.ok()) return wanted.status();
  std::vector<ModelLoad> loads;
  for (const std::string& name : wanted.value()) loads.push_back({name, Status()});
  std::atomic<std::size_t> next{0};
  const auto load = [&] {
    for (std::size_t i = next++; i < loads.size(); i = next++) loads[i].status = LoadModel(loads[i].name);
  };
  std::vector<std::thread> threads;
  const std::size_t count = std::min<std::size_t>(std::max(options_.model_load_threads, 1U), loads.size());
  for (std::size_t i = 1; i < count; ++i) threads.emplace_back(load);
  load();
  for (std::thread& thread : threads) thread.join();
  for (ModelLoad& loaded : loads) {
    if (!loaded.status.ok()) loaded.status = Explained(loaded);
  }
  const std::lock_guard<std::mutex> lock(loads_mutex_);
  loads_ = std::move(loads);
  return {};
}

// With what Triton does not say: which folder lacks what.
Status Server::Explained(const ModelLoad& loaded) {
  const std::string where = "failed to load model '" + loaded.name + "': ";
  const std::string lacking = FolderProblem(options_.repository, loaded.name);
  if (IsPollFailure(loaded.status)) {
    const std::string reason = PollFailure(this, options_, loaded.name);
    if (!reason.empty()) return {Code::kInvalidArgument, where + reason};
    return {Code::kInvalidArgument, where + (lacking.empty() ? "its folder cannot be read" : lacking)};
  }
  if (lacking.empty()) return loaded.status;
  // What the folder lacks is often the reason, and sometimes beside it: a backend may be missing as well.
  return {Code::kInvalidArgument, where + lacking + " (Triton: " + loaded.status.message() + ")"};
}

Server::~Server() {
  if (server_ == nullptr) return;
  bool deleted = false;
  try {
    const Status status = Stop();
    if (!status.ok()) log::Error("triton kept, it did not stop", {{"reason", status.message()}});
    deleted = status.ok() && !left_over_ && ToStatus(GetApi().ServerDelete(server_)).ok();
  } catch (...) {  // no memory even for that: it is kept as well
  }
  if (deleted) return;
  // Requests still run inside: freeing the server under them would crash, keeping it costs only memory.
  static_cast<void>(allocator_.release());
  static_cast<void>(open_calls_.release());
  static_cast<void>(live_calls_.release());
}

Status Server::Stop() {
  if (server_ == nullptr || stopped_.exchange(true)) return stop_status_;
  const auto until = UntilExit();
  Status status = UnloadAll(until);
  if (status.ok() && !open_calls_->Wait(OpenCalls::kAll, until)) status = {Code::kUnavailable, "requests run"};
  if (status.ok() && !ToStatus(GetApi().ServerStop(server_)).ok()) left_over_ = true;
  if (!status.ok()) {
    stop_status_ = {Code::kUnavailable, "Triton did not stop within " + std::to_string(options_.exit_timeout_s) +
                                            " s, requests or responses are still held: " + status.message()};
  }
  return stop_status_;
}

Result<std::vector<std::string>> Server::ModelsIn(const std::set<std::string>& states) const {
  Result<std::string> index = Index();
  if (!index.ok()) return index.status();
  std::vector<std::string> names;
  const nlohmann::json parsed = nlohmann::json::parse(index.value(), nullptr, false);
  for (const nlohmann::json& entry : parsed) {
    const bool in_state = states.count(entry.value("state", "")) != 0;
    const std::string name = entry.value("name", "");
    if (in_state && (names.empty() || names.back() != name)) names.push_back(name);
  }
  return names;
}

std::vector<ModelLoad> Server::loads() const {
  const std::lock_guard<std::mutex> lock(loads_mutex_);
  return loads_;
}

bool Server::IsLive() const {
  bool live = false;
  return ToStatus(GetApi().ServerIsLive(server_, &live)).ok() && live;
}

bool Server::IsReady() const {
  bool ready = false;
  if (!ToStatus(GetApi().ServerIsReady(server_, &ready)).ok() || !ready) return false;
  for (;;) {
    const std::uint64_t seen = switches_.load();
    const std::vector<ModelLoad> wanted = loads();
    const bool all = std::all_of(wanted.begin(), wanted.end(), [this](const ModelLoad& load) {
      if (IsUnwanted(load.name)) return true;
      const Result<bool> model_ready = IsModelReady(load.name);
      return model_ready.ok() && model_ready.value();
    });
    // One that is missing may have left with its folder while we looked.
    if (all || switches_.load() == seen) return all;
  }
}

Result<bool> Server::IsModelReady(const std::string& model, std::int64_t version) const {
  bool ready = false;
  Status status = ToStatus(GetApi().ServerModelIsReady(server_, model.c_str(), version, &ready));
  if (!status.ok()) return status;
  return ready;
}

Result<std::string> Server::Metadata() const {
  return JsonOf([this](TRITONSERVER_Message** out) { return GetApi().ServerMetadata(server_, out); });
}

Result<std::string> Server::ModelMetadata(const std::string& model, std::int64_t version) const {
  return JsonOf(
      [&](TRITONSERVER_Message** out) { return GetApi().ServerModelMetadata(server_, model.c_str(), version, out); });
}

Result<std::string> Server::ModelConfig(const std::string& model, std::int64_t version) const {
  return JsonOf(
      [&](TRITONSERVER_Message** out) { return GetApi().ServerModelConfig(server_, model.c_str(), version, 1, out); });
}

bool Server::IsEnsemble(const std::string& model) const {
  const Result<std::string> config = ModelConfig(model);
  return config.ok() && config.value().find("\"ensemble_scheduling\"") != std::string::npos;
}

Result<std::string> Server::Statistics(const std::string& model, std::int64_t version) const {
  return JsonOf(
      [&](TRITONSERVER_Message** out) { return GetApi().ServerModelStatistics(server_, model.c_str(), version, out); });
}

Result<std::string> Server::Index(bool ready_only) const {
  const std::uint32_t flags = ready_only ? TRITONSERVER_INDEX_FLAG_READY : 0;
  return JsonOf([&](TRITONSERVER_Message** out) { return GetApi().ServerModelIndex(server_, flags, out); });
}

Result<std::string> Server::Metrics() const {
  const Api& api = GetApi();
  TRITONSERVER_Metrics* raw = nullptr;
  if (Status status = ToStatus(api.ServerMetrics(server_, &raw)); !status.ok()) return status;
  const MetricsHandle metrics(raw);
  const char* base = nullptr;
  std::size_t size = 0;
  Status status = ToStatus(api.MetricsFormatted(raw, TRITONSERVER_METRIC_PROMETHEUS, &base, &size));
  if (!status.ok()) return status;
  return std::string(base, size);
}

Status Server::LoadModel(const std::string& model) {
  const ThreadName named(kTritonThread);
  return Tidy(ToStatus(GetApi().ServerLoadModel(server_, model.c_str())));
}

Status Server::UnloadModel(const std::string& model) {
  return Tidy(ToStatus(GetApi().ServerUnloadModel(server_, model.c_str())));
}

Result<std::uint32_t> Server::TransactionFlags(const char* model, std::int64_t version) const {
  if (stopped_.load(std::memory_order_relaxed)) return Stopped();
  std::uint32_t flags = 0;
  Status status = ToStatus(GetApi().ServerModelTransactionProperties(server_, model, version, &flags, nullptr));
  if (!status.ok()) return status;
  return flags;
}

Result<std::uint32_t> Server::BatchFlags(const char* model, std::int64_t version) const {
  std::uint32_t flags = 0;
  Status status = ToStatus(GetApi().ServerModelBatchProperties(server_, model, version, &flags, nullptr));
  if (!status.ok()) return status;
  return flags;
}

Result<RequestHandle> Server::NewRequest(const char* model, std::int64_t version) const {
  if (stopped_.load(std::memory_order_relaxed)) return Stopped();
  TRITONSERVER_InferenceRequest* raw = nullptr;
  if (Status status = ToStatus(GetApi().InferenceRequestNew(&raw, server_, model, version)); !status.ok()) {
    return status;
  }
  return RequestHandle(raw, RequestDeleter{OpenCalls::SlotOf(model)});
}

Status Server::Infer(RequestHandle request, const std::shared_ptr<InferCall>& call, TraceHandle trace) const {
  const Api& api = GetApi();
  TRITONSERVER_InferenceRequest* raw = request.get();
  InferCall* self = call.get();
  Status status = ToStatus(api.InferenceRequestSetReleaseCallback(raw, InferCallbacks::Release, self));
  if (!status.ok()) return status;
  status =
      ToStatus(api.InferenceRequestSetResponseCallback(raw, allocator_.get(), self, InferCallbacks::Respond, self));
  if (!status.ok()) return status;
  if (live_calls_ != nullptr) {
    self->live_number_ = live_calls_->Add(call);
    self->live_calls_ = live_calls_.get();
    const auto number = static_cast<std::int64_t>(self->live_number_);
    status = ToStatus(api.InferenceRequestSetIntParameter(raw, kCallParameter, number));
    if (!status.ok()) {
      live_calls_->Remove(self->live_number_);
      return status;
    }
  }
  self->running_ = raw;
  self->open_callbacks_ = &open_calls_->Begun(request.get_deleter().slot);
  self->open_callbacks_->fetch_add(2);
  self->held_for_response_ = call;
  self->held_for_release_ = call;
  status = ToStatus(api.ServerInferAsync(server_, raw, trace.get()));
  if (!status.ok()) {  // neither callback comes: the request and the references are ours again
    const std::lock_guard<std::mutex> lock(self->mutex_);
    self->running_ = nullptr;
    self->held_for_response_.reset();
    self->held_for_release_.reset();
    self->open_callbacks_->fetch_sub(2);
    if (live_calls_ != nullptr) live_calls_->Remove(self->live_number_);
    return status;
  }
  static_cast<void>(request.release());
  static_cast<void>(trace.release());  // Triton gives it and its listener back
  self->Submitted();
  return {};
}

}  // namespace mesh::triton
