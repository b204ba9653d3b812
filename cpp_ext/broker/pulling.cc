#include "broker/pulling.h"

#include <condition_variable>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "broker/puller.h"
#include "proxy/endpoint_follower.h"
#include "rpc/event_loop.h"

namespace mesh::broker {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLastWords{2000};  // for what goes back when the time is over

// New for each start of a process.
std::string NewProcess() {
  constexpr char kDigits[] = "0123456789abcdef";
  std::random_device random;
  std::uniform_int_distribution<std::size_t> digit(0, 15);
  std::string process(32, '0');
  for (char& one : process) one = kDigits[digit(random)];
  return process;
}

Hello HelloOf(const PullingOptions& options) {
  return {options.replica, NewProcess(), options.deployment, options.generation, options.revision};
}

}  // namespace

class Pulling::Impl {
 public:
  Impl(const PullingOptions& options, Serve serve, metrics::Registry& registry, std::shared_ptr<rpc::EventLoop> loop)
      : loop_(std::move(loop)),
        puller_(std::make_shared<Puller>(HelloOf(options), std::move(serve), loop_, options.tls, registry)),
        follower_(
            options.etcd, options.application, loop_,
            [puller = puller_](const std::vector<proxy::Endpoint>& endpoints) { puller->Apply(endpoints); },
            proxy::kBrokerRole) {
    puller_->OnIdle([this](bool idle) {
      const std::lock_guard<std::mutex> lock(mutex_);
      idle_ = idle;
      changed_.notify_all();
    });
  }

  void Start() {
    loop_->Start();
    SetWell(true);
    follower_.Start();
  }

  void SetWell(bool well) {
    loop_->Post([puller = puller_, well] { puller->SetOpen(well); });
  }

  void Drain() {
    loop_->Post([puller = puller_] { puller->Drain(); });
  }

  bool WaitIdle(milliseconds limit) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, limit, [this] { return idle_; });
  }

  void Close() {
    if (std::exchange(closed_, true)) return;
    loop_->PostAndWait([this] { puller_->StopRunning(); });
    WaitIdle(kLastWords);
    follower_.Stop();
    loop_->PostAndWait([this] { puller_->Close(); });
    loop_->Stop();
  }

 private:
  const std::shared_ptr<rpc::EventLoop> loop_;
  const std::shared_ptr<Puller> puller_;
  proxy::EndpointFollower follower_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool idle_ = true;  // guarded by mutex_
  bool closed_ = false;
};

Result<std::unique_ptr<Pulling>> Pulling::Start(const PullingOptions& options, Serve serve,
                                                metrics::Registry& registry) {
  Result<std::shared_ptr<rpc::EventLoop>> loop = rpc::EventLoop::Create("pull");
  if (!loop.ok()) return loop.status();
  auto impl = std::make_unique<Impl>(options, std::move(serve), registry, std::move(loop).value());
  impl->Start();
  return std::unique_ptr<Pulling>(new Pulling(std::move(impl)));
}

Pulling::Pulling(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Pulling::~Pulling() { Close(); }
void Pulling::SetWell(bool well) { impl_->SetWell(well); }
void Pulling::Drain() { impl_->Drain(); }
bool Pulling::WaitIdle(milliseconds limit) { return impl_->WaitIdle(limit); }
void Pulling::Close() { impl_->Close(); }

}  // namespace mesh::broker
