// Threads of this process, told apart by their names, which a thread inherits from the one that starts it.
#pragma once

#include <array>
#include <cstddef>
#include <set>
#include <string>

namespace mesh::triton {

// Names the calling thread for as long as this lives. At most 15 characters.
class ThreadName {
 public:
  explicit ThreadName(const char* name);
  ~ThreadName();
  ThreadName(const ThreadName&) = delete;
  ThreadName& operator=(const ThreadName&) = delete;

 private:
  std::array<char, 16> before_{};
};

std::size_t ThreadsNamed(const std::string& name);

// Whether each thread that has the name now, and still lives, has been asleep at one look or the other.
class SleepWatch {
 public:
  explicit SleepWatch(std::string name);
  bool Look();

 private:
  const std::string name_;
  std::set<std::string> awake_;  // the ids of those that were not seen asleep yet
};

}  // namespace mesh::triton
