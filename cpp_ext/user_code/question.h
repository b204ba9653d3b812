// A question of the user's code to a model or to another deployment, and how its answer gets back.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "mesh/abi.h"
#include "rpc/event_loop.h"
#include "triton/infer.h"
#include "user_code/threads.h"

// What came back, with the memory of its tensors.
struct MeshReply {
  MeshReply() = default;
  MeshReply(const MeshReply&) = delete;
  MeshReply& operator=(const MeshReply&) = delete;
  virtual ~MeshReply() = default;
  std::vector<MeshTensor> outputs;
};

namespace mesh::user {

using std::chrono::steady_clock;

// The asker's end of a question: told once, and meanwhile cancelled with the request that it is asked for, or when its
// own time is over.
class Asker : public std::enable_shared_from_this<Asker> {
 public:
  // `over` is called last of all, when whoever asked has been told.
  Asker(const MeshQuestion& question, Threads& threads, std::shared_ptr<rpc::EventLoop> loop,
        std::function<void()> over);
  ~Asker();
  Asker(const Asker&) = delete;
  Asker& operator=(const Asker&) = delete;

  // `cancel` ends the work for the question, whose end then is told as any; it must not block. Before the work begins.
  void WhenOver(std::function<void()> cancel);
  // Thread-safe; the first one counts. A cancelled question is told why it was.
  void Tell(Status status, std::unique_ptr<MeshReply> reply);

  // The earlier of the request's deadline and the question's own time.
  [[nodiscard]] const std::optional<steady_clock::time_point>& deadline() const { return deadline_; }
  [[nodiscard]] const std::shared_ptr<triton::InferCall>& parent() const { return parent_; }

 private:
  void ArmTimer();
  [[nodiscard]] Status WhyOver(const Status& status) const;

  const MeshQuestion question_;  // what it points to stays until it is told
  Threads& threads_;
  const std::shared_ptr<rpc::EventLoop> loop_;
  const std::function<void()> over_;
  std::shared_ptr<triton::InferCall> parent_;
  std::optional<steady_clock::time_point> parents_deadline_;
  std::optional<steady_clock::time_point> deadline_;
  std::atomic<std::uint64_t> parents_number_{0};
  std::unique_ptr<rpc::Timer> timer_;  // of the loop
  std::function<void()> cancel_;
  std::atomic<bool> told_{false};
};

}  // namespace mesh::user
