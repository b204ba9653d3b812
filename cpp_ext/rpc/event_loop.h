// One epoll thread: file descriptors, timers, and work posted from any thread. Server and client connections live on
// one loop each and are touched by nobody else, so they need no locks.
//
// An iteration runs: ready descriptors, posted tasks, due timers, end tasks (there connections write once for all
// that happened in the iteration). Wake-ups are batched: Post writes to the eventfd only when the loop sleeps.
//
// With busy polling the loop does not sleep at once: after a descriptor was ready or work was posted it looks for more
// again and again, for the given time since the last of these, and yields the CPU between two looks. That spares the
// waking up of a thread (and of a CPU that has gone idle) for each message, and costs a CPU while traffic flows.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/status.h"

namespace mesh::rpc {

class EventLoop;

// Work for the loop's thread. Intrusive, so that posting allocates nothing; one task is in at most one queue.
class LoopTask {
 public:
  LoopTask() = default;
  LoopTask(const LoopTask&) = delete;
  LoopTask& operator=(const LoopTask&) = delete;
  virtual ~LoopTask() = default;
  virtual void RunInLoop() = 0;
  // Called instead of RunInLoop when the loop has ended, on any thread: release what the task holds.
  virtual void Discard() {}

 private:
  friend class EventLoop;
  LoopTask* next_ = nullptr;
};

// Receives readiness (EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP) of one descriptor.
class IoHandler {
 public:
  virtual ~IoHandler() = default;
  virtual void OnReady(std::uint32_t events) = 0;
};

// A one-shot timer, re-armable, also from its own callback. Belongs to one loop and its thread; disarms itself when
// destroyed.
class Timer {
 public:
  explicit Timer(std::function<void()> fire) : fire_(std::move(fire)) {}
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  [[nodiscard]] bool armed() const { return loop_ != nullptr; }

 private:
  friend class EventLoop;
  std::function<void()> fire_;
  EventLoop* loop_ = nullptr;
  std::size_t index_ = 0;  // in the loop's heap
  std::chrono::steady_clock::time_point when_;
};

class EventLoop : public std::enable_shared_from_this<EventLoop> {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // `name` is the thread's name (15 characters count), `busy_poll` how long it polls before it sleeps; 0: not at all.
  // Fails when the process is out of descriptors.
  static Result<std::shared_ptr<EventLoop>> Create(std::string name, std::chrono::microseconds busy_poll = {});
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Starts the thread, which keeps the loop alive until Stop.
  void Start();
  // Runs what was posted before, then ends the thread and waits for it. Called on the loop's own thread it only asks
  // for the end. Repeatable.
  void Stop();
  [[nodiscard]] bool InLoop() const { return thread_id_.load(std::memory_order_relaxed) == std::this_thread::get_id(); }

  // From any thread. Tasks run in the order in which they were posted. Once the thread has ended they are discarded at
  // once.
  void Post(LoopTask* task);
  void Post(std::function<void()> work);
  // Post(work), and wait until it ran. Runs it on the caller's thread when that is the loop's, or when the loop's does
  // not run (any more).
  void PostAndWait(const std::function<void()>& work);

  // How often the thread has gone to sleep, from any thread.
  [[nodiscard]] std::uint64_t sleeps() const { return sleeps_.load(std::memory_order_relaxed); }

  // All that follows: only on the loop's thread (or before Start).
  Status Add(int fd, std::uint32_t events, IoHandler* handler);
  void Modify(int fd, std::uint32_t events, IoHandler* handler);
  // After it `handler` is not called again, not even for events that were already fetched.
  void Remove(int fd, IoHandler* handler);
  void Arm(Timer* timer, TimePoint when);
  void Disarm(Timer* timer);
  // Runs `task` once at the end of this iteration. A task that goes away before must be cancelled.
  void RunAtEnd(LoopTask* task) { end_tasks_.push_back(task); }
  void CancelAtEnd(LoopTask* task);
  // The time at which this iteration began.
  [[nodiscard]] TimePoint now() const { return now_; }

 private:
  EventLoop(std::string name, std::chrono::microseconds busy_poll) : name_(std::move(name)), busy_poll_(busy_poll) {}
  Status Open();
  void Run();
  void RunOnce();
  int Poll();
  int Sleep();
  void HandleEvents(int count);
  void RunPosted();
  void RunTimers();
  void RunEndTasks();
  void DiscardPosted();
  void WakeUp();
  [[nodiscard]] bool WorkIsDue(TimePoint now) const;
  [[nodiscard]] int WaitTimeoutMs() const;
  void Place(Timer* timer, std::size_t index);
  void SiftUp(std::size_t index);
  void SiftDown(std::size_t index);

  const std::string name_;
  const std::chrono::microseconds busy_poll_;
  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  std::thread thread_;
  std::atomic<std::thread::id> thread_id_{};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> running_{false};
  std::atomic<bool> ended_{false};
  std::atomic<bool> sleeping_{false};  // whoever posts must wake the thread; stays true when it has ended
  std::atomic<std::uint64_t> sleeps_{0};
  std::atomic<LoopTask*> posted_{nullptr};  // newest first
  std::vector<epoll_event> events_;
  int event_count_ = 0;
  std::vector<Timer*> heap_;
  std::vector<LoopTask*> end_tasks_;
  std::vector<LoopTask*> running_end_tasks_;
  TimePoint last_event_{};  // when a descriptor was ready or work was posted
  TimePoint now_ = std::chrono::steady_clock::now();
};

}  // namespace mesh::rpc
