// A request that a replica has pulled, as the services see it: a call of which no byte passes a socket.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/messages.h"
#include "common/status.h"
#include "rpc/message.h"
#include "rpc/server.h"

namespace mesh::broker {

// The replica's own entry: answers `call` for the encoded ModelInferRequest as ModelInfer would, or, of a model that
// may answer any number of times, as ModelStreamInfer: then it asks the call for its messages, of which that request is
// the only one. A status that is not OK: nothing of it has begun, and `call` is not used.
using Serve = std::function<Status(const std::shared_ptr<rpc::ServerCall>& call, const rpc::Slice& request)>;

struct Job {
  rpc::Slice request;
  rpc::Metadata metadata;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  bool wants_parts = false;
  std::size_t max_result_bytes = 0;
};

class PulledCall final : public rpc::ServerCall, public std::enable_shared_from_this<PulledCall> {
 public:
  struct Told {
    std::function<void(std::string)> part;  // a piece of the result
    std::function<void(Outcome)> ended;     // once, last; both on any thread, and they must not block
  };

  PulledCall(Job job, Told told);

  // As Serve says. May be repeated after a refusal.
  Status Start(const Serve& serve);
  // The work is told to stop; what came of it is told when it has.
  void Cancel();

  // rpc::ServerCall
  [[nodiscard]] std::string_view path() const override { return "/mesh.broker.v1.Broker/Pull"; }
  [[nodiscard]] const rpc::Metadata& metadata() const override { return job_.metadata; }
  [[nodiscard]] std::string_view peer() const override { return "broker"; }
  [[nodiscard]] std::optional<std::chrono::steady_clock::time_point> deadline() const override { return job_.deadline; }
  [[nodiscard]] bool done() const override;
  void OnCancel(std::function<void()> callback) override;
  void OnMessage(std::function<void(std::optional<rpc::Slice>)> callback) override;
  void PauseMessages(bool /*paused*/) override {}  // there is one
  void Send(rpc::Message message) override;
  [[nodiscard]] std::size_t unsent_bytes() const override { return 0; }  // bounded as a whole
  void OnSent(std::function<void()> callback) override { callback(); }
  using ServerCall::Finish;
  void Finish(Status status, rpc::Metadata trailers) override;

 private:
  // With mutex_ held.
  Status Take(rpc::Message message);
  [[nodiscard]] Outcome OutcomeOf(const Status& status);

  Job job_;
  const Told told_;

  mutable std::mutex mutex_;  // guards what follows
  std::function<void()> on_cancel_;
  std::vector<rpc::Message> answers_;
  std::size_t answer_bytes_ = 0;
  bool streamed_ = false;
  bool cancelled_ = false;
  bool finished_ = false;
};

// What came of a run that ended so: another attempt may help where nobody was there, or nobody had room.
Outcome Failed(Status status, bool begun);

}  // namespace mesh::broker
