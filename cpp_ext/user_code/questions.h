// All questions of one deployment: who answers them, and their end.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>

#include "common/status.h"
#include "mesh/abi.h"
#include "rpc/event_loop.h"
#include "triton/server.h"
#include "user_code/composition.h"
#include "user_code/threads.h"

namespace mesh::user {

// Thread-safe.
class Questions {
 public:
  // `server` must outlive it. `threads` run the user's callbacks.
  static Result<std::unique_ptr<Questions>> Create(const triton::Server& server, CompositionOptions options,
                                                   std::size_t threads);
  ~Questions();  // Close(), without a limit for what models compute
  Questions(const Questions&) = delete;
  Questions& operator=(const Questions&) = delete;

  void Ask(const MeshQuestion& question);
  void Follow() { composition_->Follow(); }
  // Refuses new ones, ends the calls to other deployments and waits until every question was told and its callback has
  // returned. False when a model or a callback took longer. Repeatable.
  [[nodiscard]] bool Close(std::chrono::steady_clock::time_point until);

 private:
  Questions(const triton::Server& server, CompositionOptions options, std::size_t threads,
            std::shared_ptr<rpc::EventLoop> loop);

  const triton::Server& server_;
  const std::shared_ptr<rpc::EventLoop> loop_;
  std::atomic<std::uint64_t> open_{0};
  std::atomic<bool> closed_{false};
  std::unique_ptr<Composition> composition_;
  std::unique_ptr<Threads> threads_;
};

}  // namespace mesh::user
