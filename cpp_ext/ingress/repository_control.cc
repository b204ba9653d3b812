#include "ingress/repository_control.h"

#include <pthread.h>

#include <exception>
#include <utility>

#include "common/log.h"
#include "ingress/failure.h"
#include "ingress/text.h"

namespace mesh::ingress {
namespace {

using Kind = RepositoryParameter::Kind;

// Each may hold whole model files.
constexpr std::size_t kMaxWaiting = 16;
// Triton ends models on threads of its own and tells nobody when it is done, so that is looked at again and again.
constexpr std::chrono::milliseconds kLook{20};
// A model whose requests go on must not hold up other calls for ever.
constexpr std::chrono::seconds kLongestPause{5};
constexpr std::string_view kFilePrefix = "file:";

Status Invalid(std::string message) { return {Code::kInvalidArgument, std::move(message)}; }

Status CheckLoadParameter(const RepositoryParameter& parameter) {
  const std::string name(parameter.name);
  const std::string wrong = "invalid value type for load parameter '" + name + "', expected ";
  if (name == "config") return parameter.kind == Kind::kString ? Status() : Invalid(wrong + "string_param.");
  if (parameter.name.substr(0, kFilePrefix.size()) != kFilePrefix) {
    return Invalid("unrecognized load parameter '" + name + "'.");
  }
  return parameter.kind == Kind::kBytes ? Status() : Invalid(wrong + "bytes_param.");
}

bool WantsDependents(const RepositoryCall& call) {
  for (const RepositoryParameter& parameter : call.parameters) {
    if (parameter.name == "unload_dependents") return parameter.bool_value;
  }
  return false;
}

Status NotAllowed() {
  return {Code::kUnavailable,
          "explicit model load / unload is not allowed if polling is enabled; this deployment allows it with "
          "`model_control: explicit` in its specification"};
}

Status TooMany() {
  return {Code::kResourceExhausted, "more than " + std::to_string(kMaxWaiting) +
                                        " calls wait to load or unload models; try again when some are answered"};
}

}  // namespace

RepositoryControl::RepositoryControl(triton::Server& server, ModelControl mode, std::function<void()> on_change)
    : server_(server), mode_(mode), on_change_(std::move(on_change)) {
  if (mode_ == ModelControl::kExplicit) thread_ = std::thread([this] { Run(); });
}

RepositoryControl::~RepositoryControl() {
  Drain();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

Status RepositoryControl::Check(const RepositoryCall& call) const {
  if (!call.repository.empty()) return {Code::kUnimplemented, "'repository_name' specification is not supported"};
  for (const RepositoryParameter& parameter : call.parameters) {
    if (call.action == RepositoryCall::Action::kLoad) {
      if (Status status = CheckLoadParameter(parameter); !status.ok()) return status;
    } else if (parameter.name == "unload_dependents" && parameter.kind != Kind::kBool) {
      return Invalid("invalid value type for 'unload_dependents' parameter, expected bool_param.");
    }
  }
  return mode_ == ModelControl::kExplicit ? Status() : NotAllowed();
}

std::optional<RepositoryControl::Ticket> RepositoryControl::Submit(RepositoryCall call, Done done) {
  Status refused = Check(call);
  if (refused.ok()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!draining_ && waiting_.size() < kMaxWaiting) {
      waiting_.push_back({++last_ticket_, std::move(call), std::move(done)});
      changed_.notify_all();
      return last_ticket_;
    }
    refused = draining_ ? Draining() : TooMany();
  }
  done(refused);
  return std::nullopt;
}

void RepositoryControl::Withdraw(Ticket ticket) {
  std::optional<Waiting> dropped;  // freed outside of the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto entry = waiting_.begin(); entry != waiting_.end(); ++entry) {
    if (entry->ticket != ticket) continue;
    dropped = std::move(*entry);
    waiting_.erase(entry);
    return;
  }
}

std::size_t RepositoryControl::waiting() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return waiting_.size();
}

void RepositoryControl::Drain() {
  std::deque<Waiting> refused;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    draining_ = true;
    refused.swap(waiting_);
  }
  for (const Waiting& entry : refused) entry.done(Draining());
}

void RepositoryControl::Run() {
  pthread_setname_np(pthread_self(), "models");
  bool settled = true;
  Clock::time_point until;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    if (!settled) {
      changed_.wait_for(lock, kLook, [this] { return stopping_; });
    } else {
      changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    }
    if (stopping_) return;
    if (!settled) {
      lock.unlock();
      settled = server_.Settled();
      if (settled) on_change_();
      lock.lock();
    }
    // One after the other: each may hold whole model files, and what one leaves behind is the next one's beginning.
    if (waiting_.empty() || (!settled && Clock::now() < until)) continue;
    const Waiting next = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    until = Execute(next);
    settled = false;
    lock.lock();
  }
}

RepositoryControl::Clock::time_point RepositoryControl::Execute(const Waiting& next) {
  const bool load = next.call.action == RepositoryCall::Action::kLoad;
  const auto began = Clock::now();
  Status status;
  triton::Server::HeldVersions replaced;
  try {
    status = load ? Load(next.call, &replaced) : Unload(next.call, &replaced);
  } catch (const std::exception& error) {
    status = InternalFailure(load ? "RepositoryModelLoad" : "RepositoryModelUnload", error.what());
  }
  log::Info(load ? "model load asked for" : "model unload asked for",
            {{"model", next.call.model},
             {"outcome", status.ToString()},
             {"took_s", std::chrono::duration<double>(Clock::now() - began).count()}});
  on_change_();
  next.done(status);
  const auto until = Clock::now() + kLongestPause;
  try {
    if (status.ok()) server_.End(std::move(replaced), until);
  } catch (const std::exception& error) {
    log::Error("what a model replaced was not waited for", {{"model", next.call.model}, {"reason", error.what()}});
  }
  return until;
}

Status RepositoryControl::Load(const RepositoryCall& call, triton::Server::HeldVersions* replaced) {
  triton::ModelOverride with;
  for (const RepositoryParameter& parameter : call.parameters) {
    if (parameter.kind == Kind::kString) with.config = std::string(parameter.text);
    if (parameter.kind == Kind::kBytes) with.files.emplace_back(parameter.name, parameter.text);
  }
  return WithoutStack(server_.LoadOnRequest(std::string(call.model), with, replaced), call.model);
}

Status RepositoryControl::Unload(const RepositoryCall& call, triton::Server::HeldVersions* unloaded) {
  return server_.UnloadOnRequest(std::string(call.model),
                                 WantsDependents(call) ? triton::Dependents::kUnload : triton::Dependents::kKeep,
                                 unloaded);
}

}  // namespace mesh::ingress
