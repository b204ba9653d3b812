// Running a command and taking what it says.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "common/status.h"

namespace mesh {

struct Command {
  std::vector<std::string> arguments;  // the first is the program, looked up in PATH
  std::chrono::milliseconds timeout{600000};
  std::size_t max_output = 1U << 20;             // of each stream; the end is kept
  const std::atomic<bool>* cancelled = nullptr;  // when it becomes true the command is killed
};

struct CommandOutcome {
  int exit_code = 0;  // 128 + signal when a signal ended it
  bool timed_out = false;
  bool cancelled = false;
  std::string output;  // standard output
  std::string errors;  // standard error
};

// Runs it in a process group of its own with standard input closed, and waits. Whatever the command has left running in
// its group is killed before this returns. Fails only when the program cannot be started.
Result<CommandOutcome> RunCommand(const Command& command);

// The last line that is not blank; for programs that say the essential last.
std::string LastLine(const std::string& text);

}  // namespace mesh
