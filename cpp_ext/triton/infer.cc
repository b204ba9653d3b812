#include "triton/infer.h"

#include <new>
#include <string>
#include <utility>

#include "common/block_pool.h"
#include "triton/library.h"
#include "triton/live_calls.h"

namespace mesh::triton {
namespace {

// The memory of one large output, aligned to a cache line, which vectorised backends want. Triton holds one reference
// through the block, every slice one more.
using Block = std::shared_ptr<char>;

Block* NewBlock(std::size_t size) noexcept {
  try {
    auto* data = static_cast<char*>(AllocateBlock(size));
    Block block(
        data, [size](char* memory) { FreeBlock(memory, size); }, BlockAllocator<char>());
    return new (AllocateBlock(sizeof(Block))) Block(std::move(block));
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void DeleteBlock(Block* block) {
  if (block == nullptr) return;
  block->~Block();
  FreeBlock(block, sizeof(Block));
}

constexpr std::size_t RoundUp(std::size_t size) { return (size + 15) & ~static_cast<std::size_t>(15); }

}  // namespace

// ---------------------------------------------------------------- the response

InferResponse::InferResponse(ResponseHandle handle, std::shared_ptr<InferCall> call)
    : handle_(std::move(handle)), call_(std::move(call)) {}

InferResponse::~InferResponse() = default;

// The error is made anew by each call and belongs to the caller (Triton 2.51; its header does not say so).
Status InferResponse::status() const {
  Status status = ToStatus(GetApi().InferenceResponseError(handle_.get()));
  return status.ok() || call_ == nullptr ? status : call_->Noted(std::move(status));
}

Status InferResponse::Model(const char** name, std::int64_t* version) const {
  return ToStatus(GetApi().InferenceResponseModel(handle_.get(), name, version));
}

const char* InferResponse::id() const {
  const char* id = nullptr;
  return ToStatus(GetApi().InferenceResponseId(handle_.get(), &id)).ok() && id != nullptr ? id : "";
}

std::uint32_t InferResponse::output_count() const {
  std::uint32_t count = 0;
  return ToStatus(GetApi().InferenceResponseOutputCount(handle_.get(), &count)).ok() ? count : 0;
}

Result<Output> InferResponse::GetOutput(std::uint32_t index) const {
  Output output;
  const void* base = nullptr;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  std::int64_t memory_id = 0;
  std::uint64_t dims = 0;
  Status status =
      ToStatus(GetApi().InferenceResponseOutput(handle_.get(), index, &output.name, &output.type, &output.shape, &dims,
                                                &base, &output.size, &memory, &memory_id, &output.block));
  if (!status.ok()) return status;
  output.dims = dims;
  output.data = static_cast<const char*>(base);
  return output;
}

std::uint32_t InferResponse::parameter_count() const {
  std::uint32_t count = 0;
  return ToStatus(GetApi().InferenceResponseParameterCount(handle_.get(), &count)).ok() ? count : 0;
}

Status InferResponse::Parameter(std::uint32_t index, const char** name, TRITONSERVER_ParameterType* type,
                                const void** value) const {
  return ToStatus(GetApi().InferenceResponseParameter(handle_.get(), index, name, type, value));
}

const char* InferResponse::Label(std::uint32_t output, std::size_t index) const {
  const char* label = nullptr;
  const Status status =
      ToStatus(GetApi().InferenceResponseOutputClassificationLabel(handle_.get(), output, index, &label));
  return status.ok() ? label : nullptr;
}

rpc::Slice InferResponse::Share(const Output& output) const {
  if (output.size == 0) return {};
  if (output.block != nullptr) return {*static_cast<Block*>(output.block), output.data, output.size};
  return {call_, output.data, output.size};
}

// ---------------------------------------------------------------- the call

void InferCall::Cancel() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (cancel_wanted_) return;
    cancel_wanted_ = true;
    if (submitted_ && running_ != nullptr) {
      // It can only fail for a request that has no response factory yet; Triton's answer comes either way.
      static_cast<void>(ToStatus(GetApi().InferenceRequestCancel(running_)));
    }
    if (companions_ == nullptr) return;
  }
  TellCancelled();
}

bool InferCall::cancelled() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return cancel_wanted_;
}

std::uint64_t InferCall::WhenCancelled(std::function<void()> told) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!cancel_wanted_) {
      if (companions_ == nullptr) companions_ = std::make_unique<Companions>();
      companions_->when_cancelled.emplace(++companions_->last_number, std::move(told));
      return companions_->last_number;
    }
  }
  told();
  return 0;
}

// One may wait for the other here: each is told outside of the lock, and holds what it needs itself.
void InferCall::TellCancelled() {
  std::map<std::uint64_t, std::function<void()>> told;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    told.swap(companions_->when_cancelled);
  }
  for (const auto& [number, tell] : told) tell();
}

void InferCall::Forget(std::uint64_t number) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (companions_ != nullptr) companions_->when_cancelled.erase(number);
}

void InferCall::NoteFailure(Status status) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (companions_ == nullptr) companions_ = std::make_unique<Companions>();
  companions_->failure = std::move(status);
}

Status InferCall::Noted(const Status& status) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return companions_ == nullptr || companions_->failure.ok() ? status : companions_->failure;
}

void InferCall::Submitted() {
  const std::lock_guard<std::mutex> lock(mutex_);
  submitted_ = true;
  // A cancel that came while the request was being submitted would have been overlooked by Triton.
  if (cancel_wanted_ && running_ != nullptr) static_cast<void>(ToStatus(GetApi().InferenceRequestCancel(running_)));
}

char* InferCall::AllocateInline(std::size_t size) {
  if (size > kInlineBytes) return nullptr;
  const std::size_t start = inline_used_.fetch_add(RoundUp(size), std::memory_order_relaxed);
  return start + size <= kInlineBytes ? inline_bytes_.data() + start : nullptr;
}

// ---------------------------------------------------------------- Triton's callbacks

Result<AllocatorHandle> InferCallbacks::NewAllocator() {
  const Api& api = GetApi();
  TRITONSERVER_ResponseAllocator* raw = nullptr;
  if (Status status = ToStatus(api.ResponseAllocatorNew(&raw, Allocate, Free, nullptr)); !status.ok()) return status;
  AllocatorHandle allocator(raw);
  if (Status status = ToStatus(api.ResponseAllocatorSetQueryFunction(raw, Query)); !status.ok()) return status;
  return allocator;
}

TRITONSERVER_Error* InferCallbacks::Allocate(TRITONSERVER_ResponseAllocator* /*allocator*/, const char* name,
                                             std::size_t size, TRITONSERVER_MemoryType /*type*/,
                                             std::int64_t /*type_id*/, void* userp, void** buffer, void** buffer_userp,
                                             TRITONSERVER_MemoryType* actual_type, std::int64_t* actual_type_id) {
  *actual_type = TRITONSERVER_MEMORY_CPU;
  *actual_type_id = 0;
  *buffer_userp = nullptr;
  *buffer = nullptr;
  if (size == 0) return nullptr;
  Result<char*> place = static_cast<InferCall*>(userp)->Place(name, size);
  if (!place.ok()) return ToTritonError(place.status());
  *buffer = place.value() != nullptr ? place.value() : static_cast<InferCall*>(userp)->AllocateInline(size);
  if (*buffer != nullptr) return nullptr;
  Block* block = NewBlock(size);
  if (block == nullptr) {
    return ToTritonError(
        {Code::kUnavailable, "no memory for output '" + std::string(name) + "' of " + std::to_string(size) + " bytes"});
  }
  *buffer = block->get();
  *buffer_userp = block;
  return nullptr;
}

TRITONSERVER_Error* InferCallbacks::Free(TRITONSERVER_ResponseAllocator* /*allocator*/, void* /*buffer*/,
                                         void* buffer_userp, std::size_t /*size*/, TRITONSERVER_MemoryType /*type*/,
                                         std::int64_t /*type_id*/) {
  DeleteBlock(static_cast<Block*>(buffer_userp));
  return nullptr;
}

// Answers go to a socket: host memory, whatever the backend would prefer.
TRITONSERVER_Error* InferCallbacks::Query(TRITONSERVER_ResponseAllocator* /*allocator*/, void* /*userp*/,
                                          const char* /*name*/, std::size_t* /*size*/, TRITONSERVER_MemoryType* type,
                                          std::int64_t* type_id) {
  *type = TRITONSERVER_MEMORY_CPU;
  *type_id = 0;
  return nullptr;
}

void InferCallbacks::Respond(TRITONSERVER_InferenceResponse* response, std::uint32_t flags, void* userp) {
  auto* call = static_cast<InferCall*>(userp);
  const bool final = (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0;
  std::shared_ptr<InferCall> held = final ? std::move(call->held_for_response_) : call->shared_from_this();
  std::atomic<std::uint64_t>* const open = call->open_callbacks_;
  call->OnResponse(InferResponse(ResponseHandle(response), std::move(held)), final);
  if (final) open->fetch_sub(1);
}

void InferCallbacks::Release(TRITONSERVER_InferenceRequest* request, std::uint32_t flags, void* userp) {
  if ((flags & TRITONSERVER_REQUEST_RELEASE_ALL) == 0) return;
  auto* call = static_cast<InferCall*>(userp);
  const std::shared_ptr<InferCall> held = std::move(call->held_for_release_);
  {
    const std::lock_guard<std::mutex> lock(call->mutex_);
    call->running_ = nullptr;
  }
  if (call->live_calls_ != nullptr) call->live_calls_->Remove(call->live_number_);
  RequestHandle(request).reset();  // before anybody hears of it and stops the server
  call->OnReleased();
  call->open_callbacks_->fetch_sub(1);
}

}  // namespace mesh::triton
