// One inference inside Triton: what the caller fills, what Triton calls back, and the memory of the outputs.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status.h"
#include "rpc/message.h"
#include "triton/datatype.h"
#include "triton/handles.h"

namespace mesh::triton {

class InferCall;
class LiveCalls;

// One output of a response. The views end with the response; slice() does not.
struct Output {
  const char* name = "";
  DataType type = TRITONSERVER_TYPE_INVALID;
  const std::int64_t* shape = nullptr;
  std::size_t dims = 0;
  const char* data = nullptr;
  std::size_t size = 0;
  void* block = nullptr;  // of the allocator
};

// A response of Triton. Reading it needs no locks; it lives on one thread at a time.
class InferResponse {
 public:
  InferResponse(ResponseHandle handle, std::shared_ptr<InferCall> call);
  InferResponse(InferResponse&&) noexcept = default;
  InferResponse& operator=(InferResponse&&) noexcept = default;
  ~InferResponse();

  // False when Triton ended a request without a (further) response.
  [[nodiscard]] bool present() const { return handle_ != nullptr; }
  [[nodiscard]] Status status() const;
  // The view ends with the response.
  Status Model(const char** name, std::int64_t* version) const;
  [[nodiscard]] const char* id() const;  // of the request
  [[nodiscard]] std::uint32_t output_count() const;
  Result<Output> GetOutput(std::uint32_t index) const;
  [[nodiscard]] std::uint32_t parameter_count() const;
  Status Parameter(std::uint32_t index, const char** name, TRITONSERVER_ParameterType* type, const void** value) const;
  // Null where there is no label.
  [[nodiscard]] const char* Label(std::uint32_t output, std::size_t index) const;
  // The bytes of an output of this response, without a copy; they outlive the response.
  [[nodiscard]] rpc::Slice Share(const Output& output) const;

 private:
  ResponseHandle handle_;
  std::shared_ptr<InferCall> call_;  // owns the memory of small outputs
};

// What is known of the client behind a call.
struct CallFacts {
  std::vector<std::pair<std::string, std::string>> metadata;  // or headers of HTTP; names in lower case
  std::optional<std::chrono::steady_clock::time_point> deadline;
  std::function<std::size_t()> unread_bytes;  // of answers that the client has not taken; empty: there is only one
};

// Base of whoever waits for an inference. Once Server::Infer took it, it is kept alive until Triton has called
// OnResponse with `final` and OnReleased; these come from Triton's threads, in any order, and must neither block nor
// throw.
class InferCall : public std::enable_shared_from_this<InferCall> {
 public:
  InferCall() = default;
  InferCall(const InferCall&) = delete;
  InferCall& operator=(const InferCall&) = delete;
  virtual ~InferCall() = default;

  // Asks Triton to give the request up, now or as soon as it is submitted. The answer still comes, as CANCELLED unless
  // the work was done anyway. Thread-safe, repeatable, free when the request has ended.
  void Cancel();
  [[nodiscard]] bool cancelled() const;
  // `told` is called when the call is cancelled, at once where it is already, on any thread; it must not block. The
  // number is for Forget.
  std::uint64_t WhenCancelled(std::function<void()> told);
  // It may still run on another thread, or begin to.
  void Forget(std::uint64_t number);
  // To be asked before the first answer.
  [[nodiscard]] virtual CallFacts Facts() const { return {}; }
  // Why the code of a deployment failed, which says more than the codes of Triton that its answer goes through.
  void NoteFailure(Status status);

 protected:
  // Each response; `final` is true exactly once, with the last one.
  virtual void OnResponse(InferResponse response, bool final) = 0;
  // Where an output is to lie; null leaves it to us. An error is the answer to the request.
  virtual Result<char*> Place(std::string_view /*output*/, std::size_t /*size*/) { return nullptr; }
  // The input bytes are not read any more.
  virtual void OnReleased() {}

 private:
  friend class Server;
  friend class InferResponse;
  friend struct InferCallbacks;

  static constexpr std::size_t kInlineBytes = 256;

  // What goes with a call whose model is the code of a deployment.
  struct Companions {
    std::map<std::uint64_t, std::function<void()>> when_cancelled;
    std::uint64_t last_number = 0;
    Status failure;
  };

  void Submitted();
  void TellCancelled();
  [[nodiscard]] Status Noted(const Status& status) const;
  char* AllocateInline(std::size_t size);

  // Small outputs lie inside the call itself: most answers need no other allocation.
  alignas(64) std::array<char, kInlineBytes> inline_bytes_;
  std::atomic<std::size_t> inline_used_{0};

  mutable std::mutex mutex_;
  TRITONSERVER_InferenceRequest* running_ = nullptr;  // guarded by mutex_; null before Infer and after the release
  bool submitted_ = false;                            // guarded by mutex_
  bool cancel_wanted_ = false;                        // guarded by mutex_
  std::unique_ptr<Companions> companions_;            // guarded by mutex_; few calls have any
  std::shared_ptr<InferCall> held_for_response_;
  std::shared_ptr<InferCall> held_for_release_;
  std::atomic<std::uint64_t>* open_callbacks_ = nullptr;  // the server's count
  LiveCalls* live_calls_ = nullptr;                       // where the call is known by its number
  std::uint64_t live_number_ = 0;
};

// The C functions that Triton calls; `userp` is always the InferCall.
struct InferCallbacks {
  static Result<AllocatorHandle> NewAllocator();
  static TRITONSERVER_Error* Allocate(TRITONSERVER_ResponseAllocator* allocator, const char* name, std::size_t size,
                                      TRITONSERVER_MemoryType type, std::int64_t type_id, void* userp, void** buffer,
                                      void** buffer_userp, TRITONSERVER_MemoryType* actual_type,
                                      std::int64_t* actual_type_id);
  static TRITONSERVER_Error* Free(TRITONSERVER_ResponseAllocator* allocator, void* buffer, void* buffer_userp,
                                  std::size_t size, TRITONSERVER_MemoryType type, std::int64_t type_id);
  static TRITONSERVER_Error* Query(TRITONSERVER_ResponseAllocator* allocator, void* userp, const char* name,
                                   std::size_t* size, TRITONSERVER_MemoryType* type, std::int64_t* type_id);
  static void Respond(TRITONSERVER_InferenceResponse* response, std::uint32_t flags, void* userp);
  static void Release(TRITONSERVER_InferenceRequest* request, std::uint32_t flags, void* userp);
};

}  // namespace mesh::triton
