#include "rpc/event_loop.h"

#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <system_error>
#include <utility>

namespace mesh::rpc {
namespace {

constexpr int kEventsPerWait = 128;

class FunctionTask : public LoopTask {
 public:
  explicit FunctionTask(std::function<void()> work) : work_(std::move(work)) {}
  void RunInLoop() override {
    std::unique_ptr<FunctionTask> self(this);
    work_();
  }
  void Discard() override { delete this; }

 private:
  std::function<void()> work_;
};

// Lives on the stack of a thread that waits until the loop has run or discarded it.
class AwaitedTask : public LoopTask {
 public:
  explicit AwaitedTask(const std::function<void()>& work) : work_(work) {}
  void RunInLoop() override {
    work_();
    End(true);
  }
  void Discard() override { End(false); }
  // Whether it ran.
  bool Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return ended_; });
    return ran_;
  }

 private:
  void End(bool ran) {
    std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    ran_ = ran;
    changed_.notify_one();
  }

  const std::function<void()>& work_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  bool ran_ = false;
};

}  // namespace

Timer::~Timer() {
  if (loop_ != nullptr) loop_->Disarm(this);
}

Result<std::shared_ptr<EventLoop>> EventLoop::Create(std::string name, std::chrono::microseconds busy_poll) {
  std::shared_ptr<EventLoop> loop(new EventLoop(std::move(name), busy_poll));
  Status opened = loop->Open();
  if (!opened.ok()) return opened;
  return loop;
}

Status EventLoop::Open() {
  events_.resize(kEventsPerWait);
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;  // edge-triggered: every write wakes once, and nobody has to read it
  event.data.ptr = nullptr;
  if (epoll_fd_ < 0 || wake_fd_ < 0 || epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, wake_fd_, &event) != 0) {
    return {Code::kResourceExhausted, std::string("cannot create an event loop: ") + std::strerror(errno) +
                                          "; raise the limit of open files (ulimit -n)"};
  }
  return {};
}

EventLoop::~EventLoop() {
  DiscardPosted();
  for (Timer* timer : heap_) timer->loop_ = nullptr;
  if (wake_fd_ >= 0) close(wake_fd_);
  if (epoll_fd_ >= 0) close(epoll_fd_);
}

void EventLoop::Start() {
  running_.store(true, std::memory_order_release);
  thread_ = std::thread([self = shared_from_this()] { self->Run(); });
}

void EventLoop::Stop() {
  if (!stopping_.exchange(true)) Post([] {});  // wakes the loop
  if (InLoop()) {
    if (thread_.joinable()) thread_.detach();
    return;
  }
  if (thread_.joinable()) thread_.join();
}

void EventLoop::Run() {
  thread_id_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  pthread_setname_np(pthread_self(), name_.substr(0, 15).c_str());
  while (!stopping_.load(std::memory_order_acquire)) RunOnce();
  RunPosted();
  RunEndTasks();
  thread_id_.store(std::thread::id(), std::memory_order_relaxed);
  running_.store(false, std::memory_order_release);
  ended_.store(true, std::memory_order_seq_cst);
  sleeping_.store(true, std::memory_order_seq_cst);
  DiscardPosted();
}

void EventLoop::RunOnce() {
  int count = busy_poll_.count() > 0 ? Poll() : 0;
  if (count <= 0 && posted_.load(std::memory_order_relaxed) == nullptr) count = Sleep();
  now_ = std::chrono::steady_clock::now();
  if (count > 0 || posted_.load(std::memory_order_relaxed) != nullptr) last_event_ = now_;
  HandleEvents(count);
  RunPosted();
  RunTimers();
  RunEndTasks();
}

// Looks until something is ready, posted or due, or nothing has happened for long enough. The number of descriptors
// that are ready. While it looks whoever posts need not wake the thread: sleeping_ is false.
int EventLoop::Poll() {
  const TimePoint until = last_event_ + busy_poll_;
  for (;;) {
    const int count = epoll_wait(epoll_fd_, events_.data(), kEventsPerWait, 0);
    if (count > 0 || posted_.load(std::memory_order_relaxed) != nullptr) return count;
    const TimePoint now = std::chrono::steady_clock::now();
    if (now >= until || WorkIsDue(now)) return 0;
    sched_yield();  // what is waited for may need this CPU
  }
}

int EventLoop::Sleep() {
  int timeout = WaitTimeoutMs();
  sleeping_.store(true, std::memory_order_seq_cst);
  if (posted_.load(std::memory_order_seq_cst) != nullptr) timeout = 0;
  if (timeout != 0) sleeps_.store(sleeps() + 1, std::memory_order_relaxed);  // written by this thread only
  const int count = epoll_wait(epoll_fd_, events_.data(), kEventsPerWait, timeout);
  sleeping_.store(false, std::memory_order_relaxed);
  return count;
}

void EventLoop::HandleEvents(int count) {
  event_count_ = std::max(count, 0);  // EINTR counts as nothing ready
  for (int i = 0; i < event_count_; ++i) {
    auto* handler = static_cast<IoHandler*>(events_[i].data.ptr);
    if (handler != nullptr) handler->OnReady(events_[i].events);
  }
  event_count_ = 0;
}

void EventLoop::Post(LoopTask* task) {
  LoopTask* head = posted_.load(std::memory_order_relaxed);
  do {
    task->next_ = head;
  } while (!posted_.compare_exchange_weak(head, task, std::memory_order_seq_cst, std::memory_order_relaxed));
  // The loop stores sleeping_ before it looks at posted_ for the last time, so one of the two sees the other.
  if (sleeping_.load(std::memory_order_seq_cst) && sleeping_.exchange(false, std::memory_order_seq_cst)) WakeUp();
}

void EventLoop::WakeUp() {
  if (ended_.load(std::memory_order_seq_cst)) {
    // Whoever posts between the exchange and this store leaves its task to the line below; whoever posts after the
    // store comes here itself.
    sleeping_.store(true, std::memory_order_seq_cst);
    DiscardPosted();
    return;
  }
  const std::uint64_t one = 1;
  while (write(wake_fd_, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

void EventLoop::Post(std::function<void()> work) { Post(std::make_unique<FunctionTask>(std::move(work)).release()); }

void EventLoop::PostAndWait(const std::function<void()>& work) {
  if (InLoop() || !running_.load(std::memory_order_acquire)) {
    work();
    return;
  }
  AwaitedTask task(work);
  Post(&task);
  if (!task.Wait()) work();
}

void EventLoop::RunPosted() {
  LoopTask* newest = posted_.exchange(nullptr, std::memory_order_acquire);
  LoopTask* oldest = nullptr;
  while (newest != nullptr) {
    LoopTask* next = newest->next_;
    newest->next_ = oldest;
    oldest = newest;
    newest = next;
  }
  while (oldest != nullptr) {
    LoopTask* task = oldest;
    oldest = task->next_;  // before it runs: it may post itself again
    task->RunInLoop();
  }
}

void EventLoop::DiscardPosted() {
  LoopTask* task = posted_.exchange(nullptr, std::memory_order_acquire);
  while (task != nullptr) {
    LoopTask* next = task->next_;
    task->Discard();
    task = next;
  }
}

void EventLoop::RunEndTasks() {
  while (!end_tasks_.empty()) {
    running_end_tasks_.swap(end_tasks_);
    // By reference, since a task that runs may cancel a later one.
    for (LoopTask*& slot : running_end_tasks_) {
      LoopTask* task = std::exchange(slot, nullptr);
      if (task != nullptr) task->RunInLoop();
    }
    running_end_tasks_.clear();
  }
}

void EventLoop::CancelAtEnd(LoopTask* task) {
  std::replace(end_tasks_.begin(), end_tasks_.end(), task, static_cast<LoopTask*>(nullptr));
  std::replace(running_end_tasks_.begin(), running_end_tasks_.end(), task, static_cast<LoopTask*>(nullptr));
}

Status EventLoop::Add(int fd, std::uint32_t events, IoHandler* handler) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = handler;
  if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) == 0) return {};
  return {Code::kResourceExhausted, std::string("cannot watch a socket: ") + std::strerror(errno)};
}

void EventLoop::Modify(int fd, std::uint32_t events, IoHandler* handler) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = handler;
  epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, fd, &event);  // cannot fail for a descriptor that was added
}

void EventLoop::Remove(int fd, IoHandler* handler) {
  epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
  for (int i = 0; i < event_count_; ++i) {
    if (events_[i].data.ptr == handler) events_[i].data.ptr = nullptr;
  }
}

}  // namespace mesh::rpc
