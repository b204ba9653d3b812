// One ModelStreamInfer of a client. Its first request chooses the peer; all others go there, and what comes back goes
// to the client as it is. Who is slow slows the other side: nothing piles up here.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proxy/core.h"
#include "proxy/request_head.h"
#include "rpc/client.h"
#include "rpc/event_loop.h"
#include "rpc/server.h"

namespace mesh::proxy {

class ForwardedStream final : public Waiter, public RunningCall, public std::enable_shared_from_this<ForwardedStream> {
 public:
  ForwardedStream(Core& core, std::shared_ptr<rpc::ServerCall> call, std::string hash_key);

  void Start();
  bool TryAgain() override;
  void PeerHangs() override;

 private:
  void FromClient(std::optional<rpc::Slice> message);
  void Pass(rpc::Slice message);
  bool Choose();
  void Wait();
  void LimitWait();
  void WaitIsOver();
  void Open(std::shared_ptr<Peer> peer);
  void FromPeer(rpc::Slice message);
  void PeerDone(Status status, rpc::Metadata trailers);
  [[nodiscard]] bool MayOpenElsewhere(const Status& status, routing::Fault fault) const;
  void Finish(Status status, rpc::Metadata trailers);
  void End(Code code);

  Core& core_;
  const std::shared_ptr<rpc::ServerCall> call_;
  const std::string hash_key_;
  const rpc::EventLoop::TimePoint began_;
  RequestHead head_;  // of the first request
  bool chosen_ = false;
  std::vector<rpc::Slice> unanswered_;  // sent so far, while the stream may still be opened elsewhere
  std::size_t unanswered_bytes_ = 0;
  bool replayable_ = true;
  bool client_done_ = false;
  bool over_ = false;
  bool waiting_ = false;
  int attempts_ = 0;
  Tried tried_;
  Lack lack_ = Lack::kNone;
  std::shared_ptr<Peer> peer_;
  std::unique_ptr<Slot> slot_;
  std::shared_ptr<rpc::ClientCall> upstream_;
  rpc::Timer timer_;
};

}  // namespace mesh::proxy
