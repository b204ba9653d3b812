#include "rpc/client.h"

#include <condition_variable>
#include <mutex>
#include <utility>

#include "rpc/client_core.h"

namespace mesh::rpc {
namespace {

class CoreChannel final : public Channel {
 public:
  explicit CoreChannel(std::shared_ptr<ClientCore> core) : core_(std::move(core)) {}
  ~CoreChannel() override { core_->Close(); }
  CoreChannel(const CoreChannel&) = delete;
  CoreChannel& operator=(const CoreChannel&) = delete;

  void Unary(const std::string& path, Message request, CallOptions options,
             std::function<void(Status, Slice)> done) override {
    const auto call = NewCall(path, std::move(options));
    call->SetUnary(std::move(request), std::move(done));
    core_->Submit(call);
  }

  std::shared_ptr<ClientCall> Stream(const std::string& path, CallOptions options, StreamCallbacks callbacks) override {
    auto call = NewCall(path, std::move(options));
    call->SetStream(std::move(callbacks));
    core_->Submit(call);
    return call;
  }

  std::shared_ptr<ClientCall> Ask(const std::string& path, Message request, CallOptions options,
                                  StreamCallbacks callbacks) override {
    auto call = NewCall(path, std::move(options));
    call->SetOnly(std::move(request), std::move(callbacks));
    core_->Submit(call);
    return call;
  }

  void Close() override { core_->Close(); }

 protected:
  [[nodiscard]] bool OnOwnThread() const override { return core_->OnOwnThread(); }

 private:
  std::shared_ptr<CallState> NewCall(const std::string& path, CallOptions options) {
    return std::make_shared<CallState>(core_, path, std::move(options), core_->max_message_bytes());
  }

  const std::shared_ptr<ClientCore> core_;
};

}  // namespace

std::shared_ptr<Channel> Channel::Create(std::string address, ChannelOptions options, std::shared_ptr<EventLoop> loop) {
  auto core = std::make_shared<ClientCore>(std::move(address), std::move(options));
  core->Init(std::move(loop));
  return std::make_shared<CoreChannel>(std::move(core));
}

Result<Slice> Channel::CallAndWait(const std::string& path, Message request, CallOptions options) {
  if (OnOwnThread()) {
    return Status(Code::kFailedPrecondition, "CallAndWait on the channel's own thread would wait for itself");
  }
  struct Answer {
    std::mutex mutex;
    std::condition_variable there;
    bool done = false;
    Status status;
    Slice message;
  };
  const auto answer = std::make_shared<Answer>();
  Unary(path, std::move(request), std::move(options), [answer](Status status, Slice message) {
    const std::lock_guard<std::mutex> lock(answer->mutex);
    answer->status = std::move(status);
    answer->message = std::move(message);
    answer->done = true;
    answer->there.notify_one();
  });
  std::unique_lock<std::mutex> lock(answer->mutex);
  answer->there.wait(lock, [&answer] { return answer->done; });
  if (!answer->status.ok()) return answer->status;
  return std::move(answer->message);
}

}  // namespace mesh::rpc
