// One ModelInfer of a client through a broker: submitted, waited for, answered on the client's call.
//
//   submitting ──▶ waiting ──▶ over        see docs/design/0021-brokers.md
//        └─ pausing ─┘
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "proxy/broker_messages.h"
#include "proxy/brokers.h"
#include "proxy/core.h"
#include "proxy/request_head.h"
#include "rpc/event_loop.h"
#include "rpc/server.h"

namespace mesh::proxy {

class QueuedCall final : public Brokers::Call, public std::enable_shared_from_this<QueuedCall> {
 public:
  QueuedCall(Core& core, std::shared_ptr<rpc::ServerCall> call, rpc::Slice request, RequestHead head,
             std::string deployment);

  void Start();

 private:
  void OnTimer();
  void Ask();
  void Open(const std::shared_ptr<BrokerPeer>& broker, const char* path, rpc::Message message);
  [[nodiscard]] Submission MakeSubmission() const;
  void Heard(const rpc::Slice& message);
  void NotOurs();
  void Ended(ItemEnd end);
  void Lost(Status status, rpc::Metadata trailers);
  void NotTaken(const Status& status);
  void AskLater(Status why);
  [[nodiscard]] Status NobodyThere(const Status& why) const;
  void ClientGone();
  void Finish(Status status, rpc::Metadata trailers = {});
  void End(Code code);

  Core& core_;
  const std::shared_ptr<rpc::ServerCall> call_;
  rpc::Slice request_;  // until a broker has it
  const RequestHead head_;
  const std::string deployment_;
  const std::string key_;  // by which brokers know it again
  const rpc::EventLoop::TimePoint began_;
  std::optional<rpc::EventLoop::TimePoint> until_;  // until when somebody has to answer; none while somebody does
  rpc::EventLoop::TimePoint opened_;                // when it was asked
  std::shared_ptr<BrokerPeer> broker_;              // that is asked
  std::shared_ptr<rpc::ClientCall> upstream_;
  std::vector<std::string> bound_;  // journals of a broker that may have taken it
  std::set<std::string> left_;      // brokers that have not
  bool new_key_ = true;             // no ask has ended without a ticket: nobody may know the key
  std::string ticket_;              // empty: not taken yet
  int failures_ = 0;
  bool over_ = false;
  rpc::Timer timer_;
};

}  // namespace mesh::proxy
