#include "user_code/threads.h"

#include <pthread.h>

#include <system_error>
#include <utility>

namespace mesh::user {

Threads::~Threads() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

void Threads::Post(std::function<void()> work) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(std::move(work));
    if (idle_ >= waiting_.size() || threads_.size() >= most_ || StartOne() || !threads_.empty()) {
      changed_.notify_one();
      return;
    }
    work = std::move(waiting_.back());
    waiting_.pop_back();
  }
  work();
}

bool Threads::StartOne() {
  try {
    threads_.emplace_back([this] { Run(); });
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

void Threads::Run() {
  pthread_setname_np(pthread_self(), name_.c_str());
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    ++idle_;
    changed_.wait(lock, [this] { return !waiting_.empty() || ending_; });
    --idle_;
    if (waiting_.empty()) return;
    std::function<void()> work = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    work();
    work = nullptr;
    lock.lock();
  }
}

}  // namespace mesh::user
