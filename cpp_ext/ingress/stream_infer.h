// ModelStreamInfer: requests of any models in, their answers out, on one call.
//
// Answers of models that give exactly one come in the order of their requests, as `tritonserver` sends them; those of
// decoupled models as soon as they are there. A request that fails is answered by a message with its error, and the
// stream goes on; with the metadata `triton_grpc_error: true` it ends with the error's code instead.
//
//   open ──client half-closed, all answered──▶ OK      ──draining, all answered──▶ UNAVAILABLE
//     └──cancelled, lost, answers not read──▶ ended: running requests are cancelled, their answers dropped
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "common/status.h"
#include "ingress/instruments.h"
#include "ingress/request_builder.h"
#include "ingress/request_trace.h"
#include "rpc/message.h"
#include "rpc/server.h"
#include "triton/infer.h"
#include "triton/server.h"

namespace mesh::ingress {

class ModelStream;
class StreamedInfer;

// The streams of a service that have not ended. Thread-safe.
class OpenStreams {
 public:
  // False when the service drains: the stream must not begin.
  bool Add(const std::shared_ptr<ModelStream>& stream);
  void Remove(const ModelStream* stream);
  // Lets all streams answer what they have taken, and ends them.
  void Drain();

 private:
  std::mutex mutex_;
  bool draining_ = false;
  std::unordered_map<const ModelStream*, std::weak_ptr<ModelStream>> open_;
};

class ModelStream final : public std::enable_shared_from_this<ModelStream> {
 public:
  // Serves `call` until it ends. `server` must stay until the instruments count no request as running.
  static void Start(const std::shared_ptr<rpc::ServerCall>& call, const triton::Server& server,
                    const SharedMemory& shared_memory, const std::shared_ptr<Instruments>& instruments,
                    const std::shared_ptr<OpenStreams>& streams);

  ModelStream(std::shared_ptr<rpc::ServerCall> call, const triton::Server& server, const SharedMemory& shared_memory,
              std::shared_ptr<Instruments> instruments, std::shared_ptr<OpenStreams> streams);
  ~ModelStream();
  ModelStream(const ModelStream&) = delete;
  ModelStream& operator=(const ModelStream&) = delete;

  void Drain();

 private:
  friend class StreamedInfer;

  void OnMessage(std::optional<rpc::Slice> message);
  void OnCancel();
  void Take(rpc::Slice request);
  // An answer of `infer`, its last one, or both.
  void Answer(StreamedInfer* infer, std::optional<rpc::Message> message, bool last);
  void Fail(const Status& status);

  // The rest with mutex_ held.
  bool Register(const std::shared_ptr<StreamedInfer>& infer);
  void SendInOrder();
  void Send(StreamedInfer* infer, rpc::Message message);
  void FinishIfDone();
  void Finish(const Status& status);
  void FinishDraining();

  const std::shared_ptr<rpc::ServerCall> call_;
  const triton::Server& server_;
  const SharedMemory& shared_memory_;  // read when a request comes, so the service is still there
  const std::shared_ptr<Instruments> instruments_;
  const std::shared_ptr<OpenStreams> streams_;
  const std::chrono::steady_clock::time_point started_;
  const bool errors_end_it_;

  std::mutex mutex_;  // guards what follows
  std::unordered_map<const StreamedInfer*, std::shared_ptr<StreamedInfer>> running_;
  std::deque<std::shared_ptr<StreamedInfer>> order_;  // those that give one answer and have not sent it
  bool half_closed_ = false;
  bool draining_ = false;
  bool ended_ = false;
};

// One request of a stream.
class StreamedInfer final : public triton::InferCall {
 public:
  StreamedInfer(std::shared_ptr<ModelStream> stream, rpc::Slice request);

  // Reads the request; what is wrong with it is the answer.
  Status Prepare();
  Status Submit();
  // Of a request that Triton has not taken: its answer may have to wait for those before it, what it holds need not.
  void Forget();
  [[nodiscard]] bool ordered() const { return !decoupled_; }
  [[nodiscard]] const std::string& id() const { return id_; }
  // That of the stream, which all of its requests share.
  [[nodiscard]] TraceContext trace_context() const;

 private:
  friend class ModelStream;

  void OnResponse(triton::InferResponse response, bool final) override;
  void OnReleased() override { request_ = {}; }
  [[nodiscard]] triton::CallFacts Facts() const override;
  Result<char*> Place(std::string_view output, std::size_t size) override { return PlaceOutput(extras_, output, size); }
  Result<std::optional<rpc::Message>> Encode(const triton::InferResponse& response, bool final);

  const std::shared_ptr<ModelStream> stream_;
  rpc::Slice request_;  // until Triton has released the inputs
  triton::RequestHandle prepared_;
  std::string model_;
  std::string id_;
  RequestExtras extras_;
  bool decoupled_ = false;
  std::shared_ptr<RequestTrace> trace_;  // null for most

  // Guarded by the stream's mutex: the one answer of an ordered request.
  std::optional<rpc::Message> answer_;
  bool answered_ = false;
};

}  // namespace mesh::ingress
