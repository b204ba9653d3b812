// The timers of EventLoop: a binary heap of pointers in which each timer knows its place, so that arming and disarming
// (every call with a deadline does both) allocate nothing.
#include <algorithm>
#include <limits>

#include "rpc/event_loop.h"

namespace mesh::rpc {

bool EventLoop::WorkIsDue(TimePoint now) const {
  return !end_tasks_.empty() || (!heap_.empty() && heap_.front()->when_ <= now);
}

int EventLoop::WaitTimeoutMs() const {
  if (!end_tasks_.empty()) return 0;
  if (heap_.empty()) return -1;
  const auto left = heap_.front()->when_ - std::chrono::steady_clock::now();
  if (left.count() <= 0) return 0;
  // Rounded up: waking early would only make the loop spin until the time has come.
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return static_cast<int>(std::min<decltype(ms)>(ms, std::numeric_limits<int>::max()));
}

void EventLoop::RunTimers() {
  while (!heap_.empty() && heap_.front()->when_ <= now_) {
    Timer* timer = heap_.front();
    Disarm(timer);
    timer->fire_();  // may arm itself again, or destroy itself
  }
}

void EventLoop::Arm(Timer* timer, TimePoint when) {
  if (timer->loop_ != nullptr) Disarm(timer);
  timer->loop_ = this;
  timer->when_ = when;
  heap_.push_back(timer);
  Place(timer, heap_.size() - 1);
  SiftUp(heap_.size() - 1);
}

void EventLoop::Disarm(Timer* timer) {
  if (timer->loop_ != this) return;
  timer->loop_ = nullptr;
  const std::size_t hole = timer->index_;
  Timer* last = heap_.back();
  heap_.pop_back();
  if (last == timer) return;
  Place(last, hole);
  SiftUp(hole);
  SiftDown(last->index_);
}

void EventLoop::Place(Timer* timer, std::size_t index) {
  heap_[index] = timer;
  timer->index_ = index;
}

void EventLoop::SiftUp(std::size_t index) {
  Timer* moving = heap_[index];
  while (index > 0) {
    const std::size_t parent = (index - 1) / 2;
    if (heap_[parent]->when_ <= moving->when_) break;
    Place(heap_[parent], index);
    index = parent;
  }
  Place(moving, index);
}

void EventLoop::SiftDown(std::size_t index) {
  Timer* moving = heap_[index];
  for (;;) {
    std::size_t child = 2 * index + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && heap_[child + 1]->when_ < heap_[child]->when_) ++child;
    if (moving->when_ <= heap_[child]->when_) break;
    Place(heap_[child], index);
    index = child;
  }
  Place(moving, index);
}

}  // namespace mesh::rpc
