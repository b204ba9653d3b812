// One unary call of a client: sent to a peer, sent again where that may be, answered with what came back.
//
//   choosing ──▶ running ──▶ over
//     ▲  │          │
//     │  ▼          ▼
//     └─ waiting    pausing ─┐
//     └──────────────────────┘        see docs/design/0008-proxy.md
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "proxy/core.h"
#include "proxy/request_head.h"
#include "rpc/client.h"
#include "rpc/event_loop.h"
#include "rpc/server.h"

namespace mesh::proxy {

class ForwardedCall final : public Waiter, public std::enable_shared_from_this<ForwardedCall> {
 public:
  ForwardedCall(Core& core, std::shared_ptr<rpc::ServerCall> call, rpc::Slice request, RequestHead head);

  void Start();
  bool TryAgain() override;

 private:
  class Attempt;

  // Sends the request to a peer, or sees to it that it waits for one. False when it must (go on to) wait.
  bool Choose();
  void Run(std::shared_ptr<Peer> peer);
  void Wait();
  void LimitWait();
  void WaitIsOver();
  void AttemptEnded(const std::shared_ptr<Attempt>& attempt, Status status, rpc::Metadata trailers);
  void Succeeded(const std::shared_ptr<Attempt>& attempt, rpc::Metadata trailers);
  void Retry(routing::Next next, Status status, rpc::Metadata trailers);
  void Pause(Status status, rpc::Metadata trailers);
  void PauseIsOver();
  void Hedge();
  void ClientGone();
  void Finish(Status status, rpc::Metadata trailers);
  void End(Code code);
  [[nodiscard]] Status NobodyThere() const;
  [[nodiscard]] bool MayRepeat() const;

  Core& core_;
  const std::shared_ptr<rpc::ServerCall> call_;
  const rpc::Slice request_;
  const RequestHead head_;
  const std::string path_;
  const rpc::EventLoop::TimePoint began_;
  Tried tried_;
  int attempts_ = 0;
  bool asked_elsewhere_ = false;
  bool over_ = false;
  bool waiting_ = false;
  Lack lack_ = Lack::kNone;
  Status last_error_;
  std::vector<std::shared_ptr<Attempt>> running_;
  rpc::Timer timer_;  // of the wait, the pause or the hedge: one at a time
  void (ForwardedCall::*due_)() = nullptr;
};

}  // namespace mesh::proxy
