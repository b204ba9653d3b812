#include "registry/registrar.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "common/log.h"
#include "registry/backoff.h"
#include "registry/etcd_client.h"
#include "registry/fencing.h"
#include "registry/keepalive.h"

namespace mesh::registry {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kFirstBackoff{200};
constexpr milliseconds kWithdrawLimit{3000};
constexpr int kPutAttempts = 3;

}  // namespace

class Registrar::Impl {
 public:
  Impl(Options options, std::string key, std::string value)
      : options_(std::move(options)),
        key_(std::move(key)),
        client_(options_),
        backoff_(kFirstBackoff, options_.max_backoff),
        wanted_(std::move(value)) {}

  ~Impl() { Withdraw(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void Start() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (started_ || stopping_) return;
    started_ = true;
    thread_ = std::thread([this] { Run(); });
  }

  void Update(std::string value) {
    const std::lock_guard<std::mutex> lock(mutex_);
    wanted_ = std::move(value);
    woken_ = true;
    wake_.notify_all();
  }

  void Withdraw() {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      stopping_ = true;
      wake_.notify_all();
      if (started_) wake_.wait_for(lock, kWithdrawLimit, [this] { return ended_; });
    }
    client_.Close();  // breaks the calls of a thread that still waits for etcd
    const std::lock_guard<std::mutex> joining(join_mutex_);
    if (thread_.joinable()) thread_.join();
  }

  [[nodiscard]] std::int64_t lease() const { return lease_.load(); }
  [[nodiscard]] bool registered() const { return registered_.load(); }
  [[nodiscard]] std::string problem() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return problem_;
  }

 private:
  enum class Written : std::uint8_t { kYes, kFenced, kFailed };

  void Run() {
    pthread_setname_np(pthread_self(), "registrar");
    while (!stopping()) {
      if (TakeLease()) {
        switch (WriteKey()) {
          case Written::kYes:
            backoff_.Reset();
            Hold();
            continue;
          case Written::kFenced:
            ReleaseLease();
            Pause(std::chrono::seconds(options_.ttl_s));
            continue;
          case Written::kFailed: break;
        }
      }
      Pause(backoff_.Next());
    }
    ReleaseLease();
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    wake_.notify_all();
  }

  bool stopping() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stopping_;
  }

  std::string wanted() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return wanted_;
  }

  void Pause(milliseconds pause) {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait_for(lock, pause, [this] { return stopping_; });
  }

  void SetProblem(std::string problem) {
    const std::lock_guard<std::mutex> lock(mutex_);
    problem_ = std::move(problem);
  }

  void Failed(const char* message, const Status& status) {
    SetProblem(status.message());
    if (stopping()) return;
    log::WriteLimited(failure_log_, log::Level::kWarning, message, {{"key", key_}, {"error", status.ToString()}});
  }

  // A lease that still has half of its life, the one we have or a new one.
  bool TakeLease() {
    const auto now = steady_clock::now();
    if (lease_.load() != 0 && now < granted_at_ + std::chrono::seconds(options_.ttl_s) / 2) return true;
    ForgetLease();
    Result<etcd::LeaseAnswer> granted = client_.Grant(options_.ttl_s);
    if (!granted.ok()) {
      Failed("no lease from etcd; trying again", granted.status());
      return false;
    }
    granted_at_ = now;  // before the request, so that our clock runs out before etcd's
    ttl_s_ = static_cast<int>(std::min<std::int64_t>(granted.value().ttl_s, 3600));
    lease_.store(granted.value().id);
    ownership_.Held(granted.value().id);
    return true;
  }

  void ForgetLease() {
    registered_.store(false);
    lease_.store(0);
  }

  void ReleaseLease() {
    const std::int64_t lease = lease_.load();
    ForgetLease();
    if (lease == 0) return;
    const Status revoked = client_.Revoke(lease);
    if (revoked.ok()) {
      log::Info("endpoint withdrawn", {{"key", key_}, {"lease", lease}});
    } else {
      log::Warning("lease not revoked; it runs out by itself", {{"key", key_}, {"error", revoked.ToString()}});
    }
  }

  // Makes the key hold the wanted value under our lease.
  Written WriteKey() {
    const std::string value = wanted();
    for (int attempt = 0; attempt < kPutAttempts; ++attempt) {
      Result<etcd::RangeAnswer> found = client_.Get(key_);
      if (!found.ok()) return WriteFailed(found.status());
      const bool absent = found.value().kvs.empty();
      const etcd::KeyValue existing = absent ? etcd::KeyValue() : found.value().kvs.front();
      if (!absent && existing.lease == lease_.load() && existing.value == value) return WriteDone(value, false);
      const std::string why_not = absent ? "" : ownership_.WhyNot(existing, value);
      if (!why_not.empty()) return Fenced(why_not);
      Result<bool> put = client_.PutIf(key_, value, lease_.load(), existing.mod_revision);
      if (!put.ok()) return WriteFailed(put.status());
      if (put.value()) return WriteDone(value, true);
    }
    return WriteFailed({Code::kAborted, "the key changes all the time: another process writes it"});
  }

  Written WriteDone(const std::string& value, bool changed) {
    if (changed) {
      ownership_.Wrote(value);
      log::Info("endpoint registered", {{"key", key_}, {"lease", lease_.load()}});
    }
    written_ = value;
    registered_.store(true);
    SetProblem("");
    return Written::kYes;
  }

  Written WriteFailed(const Status& status) {
    if (status.code() == Code::kNotFound) ForgetLease();  // "requested lease not found"
    Failed("endpoint not registered; trying again", status);
    return Written::kFailed;
  }

  Written Fenced(const std::string& reason) {
    registered_.store(false);
    SetProblem(reason);
    log::WriteLimited(fence_log_, log::Level::kWarning, "endpoint not registered: fenced",
                      {{"key", key_}, {"reason", reason}});
    return Written::kFenced;
  }

  // Renews until the lease is lost, the key belongs to somebody else, or the end is wanted.
  void Hold() {
    Keepalive keepalive(client_, lease_.load(), ttl_s_, granted_at_, [this] {
      const std::lock_guard<std::mutex> lock(mutex_);
      woken_ = true;
      wake_.notify_all();
    });
    std::uint64_t checked_at = 0;
    while (!stopping()) {
      switch (keepalive.Step(steady_clock::now())) {
        case Keepalive::State::kGone: LostLease("etcd does not know the lease any more"); return;
        case Keepalive::State::kExpired: LostLease("etcd did not renew it in time"); return;
        case Keepalive::State::kAlive: break;
      }
      const bool changed = wanted() != written_;
      // The lease may live while the key is gone: deleted by hand, or etcd restored from a backup.
      if (changed || keepalive.renewals() >= checked_at + 3) {
        checked_at = keepalive.renewals();
        if (!CheckKey()) return;
      }
      WaitUntil(changed && wanted() != written_ ? steady_clock::now() + kFirstBackoff : keepalive.NextStep());
    }
  }

  bool CheckKey() {
    switch (WriteKey()) {
      case Written::kYes: return true;
      case Written::kFenced: return false;
      case Written::kFailed: return lease_.load() != 0;  // the renewal goes on; tried again after the next ones
    }
    return true;
  }

  void LostLease(const char* reason) {
    if (stopping()) return;
    log::Warning("lease lost; registering again", {{"key", key_}, {"lease", lease_.load()}, {"reason", reason}});
    SetProblem(reason);
    ForgetLease();
  }

  void WaitUntil(steady_clock::time_point when) {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait_until(lock, when, [this] { return stopping_ || woken_; });
    woken_ = false;
  }

  const Options options_;
  const std::string key_;
  EtcdClient client_;
  Backoff backoff_;
  log::RateLimit failure_log_{std::chrono::seconds(10)};
  log::RateLimit fence_log_{std::chrono::seconds(60)};

  // Of the thread.
  Ownership ownership_;
  std::string written_;
  steady_clock::time_point granted_at_;
  int ttl_s_ = 0;

  std::atomic<std::int64_t> lease_{0};
  std::atomic<bool> registered_{false};

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::string wanted_;     // guarded by mutex_
  std::string problem_;    // guarded by mutex_
  bool started_ = false;   // guarded by mutex_
  bool stopping_ = false;  // guarded by mutex_
  bool ended_ = false;     // guarded by mutex_
  bool woken_ = false;     // guarded by mutex_
  std::mutex join_mutex_;
  std::thread thread_;  // joined under join_mutex_
};

Registrar::Registrar(Options options, std::string key, std::string value)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(key), std::move(value))) {}
Registrar::~Registrar() = default;
void Registrar::Start() { impl_->Start(); }
void Registrar::Update(std::string value) { impl_->Update(std::move(value)); }
void Registrar::Withdraw() { impl_->Withdraw(); }
std::int64_t Registrar::lease() const { return impl_->lease(); }
bool Registrar::registered() const { return impl_->registered(); }
std::string Registrar::problem() const { return impl_->problem(); }

}  // namespace mesh::registry
