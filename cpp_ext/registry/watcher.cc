#include "registry/watcher.h"

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "common/log.h"
#include "registry/backoff.h"
#include "registry/etcd_client.h"

namespace mesh::registry {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstBackoff{100};

// What one watch stream brought. Shared with its callbacks, which may come after the watcher lost interest in it.
struct Mailbox {
  std::mutex mutex;
  std::condition_variable filled;
  std::deque<etcd::WatchAnswer> answers;  // guarded by mutex
  bool ended = false;                     // guarded by mutex
  Status end;                             // guarded by mutex

  void End(Status status) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (std::exchange(ended, true)) return;
    end = std::move(status);
    filled.notify_all();
  }
};

rpc::StreamCallbacks FillMailbox(const std::shared_ptr<Mailbox>& mailbox) {
  rpc::StreamCallbacks callbacks;
  callbacks.on_message = [mailbox](const rpc::Slice& bytes) {
    Result<etcd::WatchAnswer> answer = etcd::DecodeWatch(bytes.view());
    if (!answer.ok()) return mailbox->End(answer.status());
    const std::lock_guard<std::mutex> lock(mailbox->mutex);
    mailbox->answers.push_back(std::move(answer).value());
    mailbox->filled.notify_all();
  };
  callbacks.on_done = [mailbox](Status status, const rpc::Metadata& /*trailers*/) {
    mailbox->End(status.ok() ? Status(Code::kUnavailable, "etcd ended the watch") : std::move(status));
  };
  return callbacks;
}

}  // namespace

class Watcher::Impl {
 public:
  Impl(Options options, std::string prefix, WatchCallbacks callbacks)
      : prefix_(std::move(prefix)),
        callbacks_(std::move(callbacks)),
        backoff_(kFirstBackoff, options.max_backoff),
        client_(std::move(options)) {}

  ~Impl() { Stop(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void Start() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (started_ || stopping_) return;
    started_ = true;
    thread_ = std::thread([this] { Run(); });
  }

  void Stop() {
    std::shared_ptr<Mailbox> mailbox;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      mailbox = mailbox_;
      wake_.notify_all();
    }
    if (mailbox != nullptr) mailbox->End({Code::kCancelled, "the watcher was stopped"});
    client_.Close();
    const std::lock_guard<std::mutex> joining(join_mutex_);
    if (thread_.joinable()) thread_.join();
  }

 private:
  enum class Next : std::uint8_t { kResume, kList };

  void Run() {
    pthread_setname_np(pthread_self(), "watcher");
    Next next = Next::kList;
    while (!stopping()) {
      const Status listed = next == Next::kList ? List() : Status();
      if (!listed.ok()) {
        Disconnected(listed);
        Pause();
        continue;
      }
      next = Follow();
    }
  }

  Status List() {
    Result<etcd::RangeAnswer> found = client_.List(prefix_);
    if (!found.ok()) return found.status();
    Listing listing;
    listing.kvs = std::move(found.value().kvs);
    listing.revision = found.value().header.revision;
    listing.cluster_id = found.value().header.cluster_id;
    listing.store_replaced = cluster_id_ != 0 && (listing.cluster_id != cluster_id_ || listing.revision < revision_);
    if (listing.store_replaced) log::Warning("etcd lost data: another store, or an older one", {{"prefix", prefix_}});
    cluster_id_ = listing.cluster_id;
    revision_ = listing.revision;
    Connected();
    if (callbacks_.on_listing) callbacks_.on_listing(listing);
    return {};
  }

  // Follows the changes after revision_ until the stream ends.
  Next Follow() {
    auto mailbox = std::make_shared<Mailbox>();
    Result<std::shared_ptr<rpc::ClientCall>> stream = client_.Stream(etcd::kWatch, FillMailbox(mailbox));
    if (!stream.ok() || !Publish(mailbox)) {
      Disconnected(stream.status());
      Pause();
      return Next::kResume;
    }
    stream.value()->Send(rpc::Message(etcd::EncodeWatchCreate(prefix_, etcd::PrefixEnd(prefix_), revision_ + 1)));
    Next next = Next::kResume;
    Status end;
    while (end.ok() && next == Next::kResume) {
      const std::deque<etcd::WatchAnswer> answers = Take(*mailbox, &end);
      for (const etcd::WatchAnswer& answer : answers) {
        if (next == Next::kResume) next = Handle(answer);
      }
    }
    stream.value()->Cancel();
    if (!end.ok()) {
      client_.StreamFailed(end);
      Disconnected(end);
    }
    Pause();  // a member that lags would have us list again and again
    return next;
  }

  // Lets Stop end the wait for this mailbox; false when Stop came first.
  bool Publish(const std::shared_ptr<Mailbox>& mailbox) {
    const std::lock_guard<std::mutex> lock(mutex_);
    mailbox_ = mailbox;
    return !stopping_;
  }

  static std::deque<etcd::WatchAnswer> Take(Mailbox& mailbox, Status* end) {
    std::unique_lock<std::mutex> lock(mailbox.mutex);
    mailbox.filled.wait(lock, [&mailbox] { return mailbox.ended || !mailbox.answers.empty(); });
    if (mailbox.answers.empty()) *end = mailbox.end;
    return std::exchange(mailbox.answers, {});
  }

  Next Handle(const etcd::WatchAnswer& answer) {
    // A revision from before ours: a member that lags, or a store that lost data. A listing tells which.
    const bool other_store = answer.header.cluster_id != cluster_id_;
    if (other_store || (answer.created && answer.header.revision < revision_)) return Next::kList;
    if (answer.canceled || answer.compact_revision != 0) {
      log::Info("watch cancelled by etcd; listing again",
                {{"prefix", prefix_}, {"compacted", answer.compact_revision}, {"reason", answer.cancel_reason}});
      return Next::kList;
    }
    Connected();
    if (answer.events.empty()) return Next::kResume;
    revision_ = answer.events.back().kv.mod_revision;
    if (callbacks_.on_changes) callbacks_.on_changes(answer.events, revision_);
    return Next::kResume;
  }

  void Connected() {
    backoff_.Reset();
    disconnected_ = false;
  }

  void Disconnected(const Status& status) {
    if (stopping() || std::exchange(disconnected_, true)) return;
    log::Warning("etcd does not answer; the view is stale", {{"prefix", prefix_}, {"error", status.ToString()}});
    if (callbacks_.on_disconnected) callbacks_.on_disconnected(status);
  }

  bool stopping() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stopping_;
  }

  void Pause() {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait_for(lock, backoff_.Next(), [this] { return stopping_; });
  }

  const std::string prefix_;
  const WatchCallbacks callbacks_;

  // Of the thread.
  Backoff backoff_;
  std::uint64_t cluster_id_ = 0;
  std::int64_t revision_ = 0;
  bool disconnected_ = false;

  EtcdClient client_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool started_ = false;              // guarded by mutex_
  bool stopping_ = false;             // guarded by mutex_
  std::shared_ptr<Mailbox> mailbox_;  // guarded by mutex_; of the stream that is followed
  std::mutex join_mutex_;
  std::thread thread_;  // joined under join_mutex_
};

Watcher::Watcher(Options options, std::string prefix, WatchCallbacks callbacks)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(prefix), std::move(callbacks))) {}
Watcher::~Watcher() = default;
void Watcher::Start() { impl_->Start(); }
void Watcher::Stop() { impl_->Stop(); }

}  // namespace mesh::registry
