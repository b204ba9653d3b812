// Threads for the user's callbacks, which may block.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace mesh::user {

// Starts a thread when there is work and none is idle, up to `most`. Each piece of work is the end of a question that
// somebody asked, so what waits is bounded by what was asked.
class Threads {
 public:
  Threads(std::string name, std::size_t most) : name_(std::move(name)), most_(most) {}
  ~Threads();  // runs what was posted, and waits for it
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  // On the caller's thread where no thread can be had.
  void Post(std::function<void()> work);

 private:
  bool StartOne();
  void Run();

  const std::string name_;
  const std::size_t most_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;
  bool ending_ = false;
};

}  // namespace mesh::user
