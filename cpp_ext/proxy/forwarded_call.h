// One unary call of a client: sent to a peer, sent again where that may be, answered with what came back.
//
//   seeking ──▶ running ──▶ over        see docs/design/0008-proxy.md
//      ▲           │
//      └───────────┘
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "proxy/seeker.h"
#include "rpc/client.h"
#include "rpc/event_loop.h"
#include "rpc/server.h"

namespace mesh::proxy {

class ForwardedCall final : public Seeker, public std::enable_shared_from_this<ForwardedCall> {
 public:
  ForwardedCall(Core& core, std::shared_ptr<rpc::ServerCall> call, rpc::Slice request, RequestHead head);

  void Start();

 private:
  class Attempt;

  [[nodiscard]] std::shared_ptr<Waiter> Self() override { return shared_from_this(); }
  [[nodiscard]] const rpc::Metadata& metadata() const override { return call_->metadata(); }
  void RunAt(std::shared_ptr<Peer> peer) override;
  void GiveUp(Status status) override { Finish(std::move(status), {}); }

  void ArmHedge();
  void Hedge();
  void AttemptEnded(const std::shared_ptr<Attempt>& attempt, Status status, rpc::Metadata trailers);
  void Succeeded(const std::shared_ptr<Attempt>& attempt, rpc::Metadata trailers);
  void Failed(const std::shared_ptr<Attempt>& attempt, Status status, rpc::Metadata trailers);
  void Retry(routing::Next next, Status status, rpc::Metadata trailers);
  void ClientGone();
  void Finish(Status status, rpc::Metadata trailers);
  void End(Code code);

  const std::shared_ptr<rpc::ServerCall> call_;
  const rpc::Slice request_;
  const std::string path_;
  const rpc::EventLoop::TimePoint began_;
  bool asked_elsewhere_ = false;
  bool over_ = false;
  std::vector<std::shared_ptr<Attempt>> running_;
  rpc::Timer hedge_timer_;
};

}  // namespace mesh::proxy
