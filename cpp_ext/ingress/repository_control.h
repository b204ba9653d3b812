// Loading and unloading models because a client asks for it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/status.h"
#include "triton/server.h"

namespace mesh::ingress {

// Whether clients may load and unload models.
enum class ModelControl : std::uint8_t { kNone, kExplicit };

// A parameter of a call, of the one type that it was given with.
struct RepositoryParameter {
  enum class Kind : std::uint8_t { kNone, kBool, kInt64, kString, kBytes };
  std::string_view name;
  Kind kind = Kind::kNone;
  bool bool_value = false;
  std::string_view text;  // of kString and kBytes
};

struct RepositoryCall {
  enum class Action : std::uint8_t { kLoad, kUnload };
  Action action = Action::kLoad;
  std::string_view repository;
  std::string_view model;
  std::vector<RepositoryParameter> parameters;
  std::shared_ptr<const void> owner;  // of what the views point to
};

// Loads and unloads, one model at a time, on a thread of its own. The parameters, codes and messages are those of
// `tritonserver --model-control-mode=explicit`. Thread-safe.
//
//   waiting ──its turn──▶ running ──▶ done        waiting ──withdrawn──▶ gone      waiting ──drain──▶ UNAVAILABLE
class RepositoryControl {
 public:
  using Done = std::function<void(const Status&)>;
  using Ticket = std::uint64_t;

  // `on_change` is told, on the thread, whenever the states of models may have changed. `server` must live longer.
  RepositoryControl(triton::Server& server, ModelControl mode, std::function<void()> on_change);
  ~RepositoryControl();  // Drain(), and waits for the call that runs
  RepositoryControl(const RepositoryControl&) = delete;
  RepositoryControl& operator=(const RepositoryControl&) = delete;

  // Calls `done` once: here when the call is refused (UNAVAILABLE where clients may not do so, and while draining;
  // RESOURCE_EXHAUSTED when too many wait; INVALID_ARGUMENT and UNIMPLEMENTED for what it holds), else on the thread
  // when Triton has answered. A load has ended then; an unload may still wait for requests that run.
  std::optional<Ticket> Submit(RepositoryCall call, Done done);
  // The client is gone: a call that waits is forgotten and `done` not called; one that runs goes on.
  void Withdraw(Ticket ticket);
  [[nodiscard]] std::size_t waiting() const;  // calls
  // Refuses what waits and what comes; what runs goes on.
  void Drain();

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiting {
    Ticket ticket;
    RepositoryCall call;
    Done done;
  };

  [[nodiscard]] Status Check(const RepositoryCall& call) const;
  void Run();
  // Until when the next call should wait for what this one leaves behind.
  Clock::time_point Execute(const Waiting& next);
  [[nodiscard]] Status Load(const RepositoryCall& call, triton::Server::HeldVersions* replaced);
  [[nodiscard]] Status Unload(const RepositoryCall& call, triton::Server::HeldVersions* unloaded);

  triton::Server& server_;
  const ModelControl mode_;
  const std::function<void()> on_change_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Waiting> waiting_;
  Ticket last_ticket_ = 0;
  bool draining_ = false;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses the rest
};

}  // namespace mesh::ingress
