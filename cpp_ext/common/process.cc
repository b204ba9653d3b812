#include "common/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

namespace mesh {
namespace {

using std::chrono::steady_clock;

constexpr int kPollMs = 50;  // how late a cancellation or the child's end is seen while it says nothing

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { Close(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    Close();
    fd_ = std::exchange(other.fd_, -1);
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_ = -1;
};

struct Pipe {
  Descriptor read_end;
  Descriptor write_end;
};

Result<Pipe> MakePipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    return Status(Code::kResourceExhausted, std::string("no pipe for a command: ") + std::strerror(errno));
  }
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return Pipe{Descriptor(ends[0]), Descriptor(ends[1])};
}

// Starts with a signal state of its own: a host such as Ray blocks and ignores signals for its own reasons.
Result<pid_t> Spawn(const std::vector<std::string>& arguments, int output, int errors) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&files, errors, STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t signals;
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  sigfillset(&signals);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, argv[0], &files, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) {
    return Status(Code::kFailedPrecondition,
                  "the command '" + arguments[0] + "' cannot be started: " + std::strerror(error));
  }
  return pid;
}

// False when the stream has ended.
bool ReadSome(const Descriptor& from, std::size_t max_bytes, std::string* text) {
  std::array<char, 16384> buffer{};
  for (;;) {
    const ssize_t count = read(from.get(), buffer.data(), buffer.size());
    if (count == 0) return false;
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    text->append(buffer.data(), static_cast<std::size_t>(count));
    if (text->size() > max_bytes) text->erase(0, text->size() - max_bytes);
  }
}

// Whether the child has ended; it stays a zombie, so that its process group cannot belong to anybody else yet.
bool HasEnded(pid_t pid) {
  siginfo_t about{};
  return waitid(P_PID, static_cast<id_t>(pid), &about, WEXITED | WNOHANG | WNOWAIT) != 0 || about.si_pid != 0;
}

void Follow(const Command& command, pid_t pid, Pipe& output, Pipe& errors, CommandOutcome* outcome) {
  const auto deadline = steady_clock::now() + command.timeout;
  bool ended = false;
  while (!ended) {
    std::array<pollfd, 2> waiting = {{{output.read_end.get(), POLLIN, 0}, {errors.read_end.get(), POLLIN, 0}}};
    poll(waiting.data(), waiting.size(), kPollMs);
    ended = HasEnded(pid);
    if (output.read_end.get() >= 0 && !ReadSome(output.read_end, command.max_output, &outcome->output)) {
      output.read_end.Close();
    }
    if (errors.read_end.get() >= 0 && !ReadSome(errors.read_end, command.max_output, &outcome->errors)) {
      errors.read_end.Close();
    }
    outcome->cancelled = !ended && command.cancelled != nullptr && command.cancelled->load();
    outcome->timed_out = !ended && steady_clock::now() >= deadline;
    if (outcome->cancelled || outcome->timed_out) return;
  }
}

int Reap(pid_t pid) {
  int state = 0;
  while (waitpid(pid, &state, 0) < 0) {
    if (errno != EINTR) return -1;  // the host has taken it (SIGCHLD ignored)
  }
  return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
}

}  // namespace

Result<CommandOutcome> RunCommand(const Command& command) {
  if (command.arguments.empty()) return Status(Code::kInvalidArgument, "an empty command cannot be run");
  Result<Pipe> output = MakePipe();
  Result<Pipe> errors = MakePipe();
  if (!output.ok()) return output.status();
  if (!errors.ok()) return errors.status();
  Result<pid_t> pid = Spawn(command.arguments, output.value().write_end.get(), errors.value().write_end.get());
  if (!pid.ok()) return pid.status();
  output.value().write_end.Close();
  errors.value().write_end.Close();
  CommandOutcome outcome;
  Follow(command, pid.value(), output.value(), errors.value(), &outcome);
  kill(-pid.value(), SIGKILL);
  outcome.exit_code = Reap(pid.value());
  return outcome;
}

std::string LastLine(const std::string& text) {
  const std::size_t last = text.find_last_not_of(" \t\r\n");
  if (last == std::string::npos) return {};
  const std::size_t before = text.find_last_of('\n', last);
  return text.substr(before == std::string::npos ? 0 : before + 1,
                     last - (before == std::string::npos ? 0 : before + 1) + 1);
}

}  // namespace mesh
