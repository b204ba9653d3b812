#include "rpc/health.h"

#include <map>
#include <mutex>
#include <optional>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <utility>
#include <vector>

namespace mesh::rpc {
namespace {

constexpr protozero::pbf_tag_type kRequestService = 1;
constexpr protozero::pbf_tag_type kResponseStatus = 1;
constexpr protozero::pbf_tag_type kListStatuses = 1, kEntryKey = 1, kEntryValue = 2;
constexpr std::size_t kQuotedBytes = 256;

std::string EncodeStatus(ServingStatus status) {
  std::string out;
  protozero::pbf_writer(out).add_enum(kResponseStatus, static_cast<std::int32_t>(status));
  return out;
}

// nullopt for bytes that are no HealthCheckRequest.
std::optional<std::string> DecodeService(const Slice& request) {
  std::string service;
  try {
    protozero::pbf_reader reader(request.data(), request.size());
    while (reader.next()) {
      if (reader.tag() == kRequestService && reader.wire_type() == protozero::pbf_wire_type::length_delimited) {
        service = reader.get_string();
      } else {
        reader.skip();
      }
    }
  } catch (const protozero::exception&) {
    return std::nullopt;
  }
  return service;
}

Status BadRequest() { return {Code::kInvalidArgument, "the request is no grpc.health.v1.HealthCheckRequest"}; }

}  // namespace

// A watcher sends the newest status when its client took the one before: a slow one costs one message, not a queue.
class HealthService::State : public std::enable_shared_from_this<State> {
 public:
  void Check(const std::shared_ptr<ServerCall>& call, const Slice& request);
  void List(const std::shared_ptr<ServerCall>& call);
  void Watch(const std::shared_ptr<ServerCall>& call);
  void Set(const std::string& service, std::optional<ServingStatus> status);
  void Drain();

 private:
  struct Watcher {
    std::shared_ptr<ServerCall> call;
    std::string service;
    std::optional<ServingStatus> told;
  };

  void StartWatch(const std::shared_ptr<ServerCall>& call, const Slice& request);
  void Forget(const ServerCall* call);
  void Tell(const ServerCall* call);
  void TellLocked(Watcher* watcher);
  [[nodiscard]] std::optional<ServingStatus> Find(const std::string& service) const;

  std::mutex mutex_;  // guards what follows; ServerCall's Send and Finish call nothing of ours back
  std::map<std::string, ServingStatus> statuses_{{"", ServingStatus::kServing}};
  std::map<const ServerCall*, Watcher> watchers_;
  bool draining_ = false;
};

std::optional<ServingStatus> HealthService::State::Find(const std::string& service) const {
  const auto found = statuses_.find(service);
  if (found == statuses_.end()) return std::nullopt;
  return draining_ ? ServingStatus::kNotServing : found->second;
}

void HealthService::State::Check(const std::shared_ptr<ServerCall>& call, const Slice& request) {
  const std::optional<std::string> service = DecodeService(request);
  if (!service) {
    call->Finish(BadRequest());
    return;
  }
  std::optional<ServingStatus> status;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    status = Find(*service);
  }
  if (status) {
    call->Reply(Message(EncodeStatus(*status)));
  } else {
    call->Finish(
        {Code::kNotFound, "the health of the service '" + service->substr(0, kQuotedBytes) + "' is not known here"});
  }
}

void HealthService::State::List(const std::shared_ptr<ServerCall>& call) {
  std::string out;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    protozero::pbf_writer writer(out);
    for (const auto& [service, status] : statuses_) {
      protozero::pbf_writer entry(writer, kListStatuses);
      entry.add_string(kEntryKey, service);
      entry.add_message(kEntryValue, EncodeStatus(draining_ ? ServingStatus::kNotServing : status));
    }
  }
  call->Reply(Message(std::move(out)));
}

void HealthService::State::Watch(const std::shared_ptr<ServerCall>& call) {
  call->OnMessage([self = shared_from_this(), call, started = false](std::optional<Slice> request) mutable {
    if (request && !std::exchange(started, true)) self->StartWatch(call, *request);
    if (!request && !started) call->Finish(BadRequest());
  });
}

void HealthService::State::StartWatch(const std::shared_ptr<ServerCall>& call, const Slice& request) {
  std::optional<std::string> service = DecodeService(request);
  if (!service) {
    call->Finish(BadRequest());
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Watcher watcher{call, *std::move(service), std::nullopt};
    TellLocked(&watcher);
    if (draining_) {
      call->Finish({Code::kUnavailable, "the server is draining"});
      return;
    }
    watchers_.emplace(call.get(), std::move(watcher));
  }
  const std::weak_ptr<State> weak = weak_from_this();
  call->OnSent([weak, key = call.get()] {
    if (const auto self = weak.lock()) self->Tell(key);
  });
  // Runs at once when the client is gone already, so the watcher cannot be left behind.
  call->OnCancel([weak, key = call.get()] {
    if (const auto self = weak.lock()) self->Forget(key);
  });
}

void HealthService::State::Forget(const ServerCall* call) {
  std::shared_ptr<ServerCall> held;  // may be the last reference: freed outside of the lock
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = watchers_.find(call);
  if (found == watchers_.end()) return;
  held = std::move(found->second.call);
  watchers_.erase(found);
}

void HealthService::State::Tell(const ServerCall* call) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = watchers_.find(call);
  if (found != watchers_.end()) TellLocked(&found->second);
}

void HealthService::State::TellLocked(Watcher* watcher) {
  const ServingStatus status = Find(watcher->service).value_or(ServingStatus::kServiceUnknown);
  if (watcher->told == status || watcher->call->unsent_bytes() > 0) return;
  watcher->told = status;
  watcher->call->Send(Message(EncodeStatus(status)));
}

void HealthService::State::Set(const std::string& service, std::optional<ServingStatus> status) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (draining_) return;
  if (status) {
    statuses_[service] = *status;
  } else {
    statuses_.erase(service);
  }
  for (auto& [key, watcher] : watchers_) {
    if (watcher.service == service) TellLocked(&watcher);
  }
}

void HealthService::State::Drain() {
  std::map<const ServerCall*, Watcher> watchers;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (std::exchange(draining_, true)) return;
    watchers.swap(watchers_);
  }
  for (auto& [key, watcher] : watchers) {
    if (watcher.told != ServingStatus::kNotServing) {
      watcher.call->Send(Message(EncodeStatus(ServingStatus::kNotServing)));
    }
    watcher.call->Finish({Code::kUnavailable, "the server is draining"});
  }
}

HealthService::HealthService() : state_(std::make_shared<State>()) {}

void HealthService::Register(Server* server) {
  const std::shared_ptr<State> state = state_;
  server->AddUnary("/grpc.health.v1.Health/Check", [state](const std::shared_ptr<ServerCall>& call,
                                                           const Slice& request) { state->Check(call, request); });
  server->AddUnary("/grpc.health.v1.Health/List",
                   [state](const std::shared_ptr<ServerCall>& call, const Slice&) { state->List(call); });
  server->AddStream("/grpc.health.v1.Health/Watch",
                    [state](const std::shared_ptr<ServerCall>& call) { state->Watch(call); });
  server->OnDrain([state] { state->Drain(); });
}

void HealthService::SetStatus(const std::string& service, ServingStatus status) { state_->Set(service, status); }
void HealthService::Remove(const std::string& service) { state_->Set(service, std::nullopt); }
void HealthService::Drain() { state_->Drain(); }

}  // namespace mesh::rpc
