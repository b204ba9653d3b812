// One ModelStreamInfer of a client. Its first request chooses the peer; all others go there, and what comes back goes
// to the client as it is. Who is slow slows the other side: nothing piles up here.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proxy/seeker.h"
#include "rpc/client.h"
#include "rpc/event_loop.h"
#include "rpc/server.h"

namespace mesh::proxy {

class ForwardedStream final : public Seeker, public RunningCall, public std::enable_shared_from_this<ForwardedStream> {
 public:
  ForwardedStream(Core& core, std::shared_ptr<rpc::ServerCall> call);

  // `first` was read already; none: nothing was.
  void Start(std::optional<rpc::Slice> first = std::nullopt);
  void PeerHangs() override;

 private:
  [[nodiscard]] std::shared_ptr<Waiter> Self() override { return shared_from_this(); }
  [[nodiscard]] const rpc::Metadata& metadata() const override { return call_->metadata(); }
  void RunAt(std::shared_ptr<Peer> peer) override;
  void GiveUp(Status status) override { Finish(std::move(status), {}); }
  void OnWaiting(bool waits) override { call_->PauseMessages(waits); }

  void FromClient(std::optional<rpc::Slice> message);
  void ClientGone();
  void Pass(rpc::Slice message);
  void NoteSequence(const RequestHead& head);
  [[nodiscard]] rpc::StreamCallbacks Callbacks();
  void FromPeer(rpc::Slice message);
  void PeerDone(Status status, rpc::Metadata trailers);
  void PeerFailed(Status status, rpc::Metadata trailers);
  [[nodiscard]] bool MayOpenElsewhere(const routing::Verdict& verdict) const;
  void Finish(Status status, rpc::Metadata trailers);
  void End(Code code);

  const std::shared_ptr<rpc::ServerCall> call_;
  const rpc::EventLoop::TimePoint began_;
  bool chosen_ = false;                 // the first request was read
  std::vector<rpc::Slice> unanswered_;  // sent so far, while the stream may still be opened elsewhere
  std::size_t unanswered_bytes_ = 0;
  bool replayable_ = true;
  bool client_done_ = false;
  bool over_ = false;
  std::shared_ptr<Peer> peer_;
  std::unique_ptr<Slot> slot_;
  std::shared_ptr<rpc::ClientCall> upstream_;
};

}  // namespace mesh::proxy
