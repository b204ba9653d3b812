#include "actor/termination.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

namespace mesh::actor {
namespace {

std::atomic<int> signal_event{-1};

// Runs in the middle of anything: it may only do what is async-signal-safe.
void OnSignal(int /*number*/) {
  const int before = errno;
  const std::uint64_t one = 1;
  if (write(signal_event.load(), &one, sizeof one) < 0) {
    // The counter is full after 2^64 - 2 signals; there is nobody to tell.
  }
  errno = before;
}

void Serve(int event, const std::function<void(int)>& on_signal) {
  pthread_setname_np(pthread_self(), "termination");
  std::uint64_t came = 0;
  for (int count = 0;;) {
    if (read(event, &came, sizeof came) != sizeof came) {
      if (errno == EINTR) continue;
      return;
    }
    count += static_cast<int>(came);
    on_signal(count);
  }
}

}  // namespace

Status WatchTermination(std::function<void(int count)> on_signal) {
  const int event = eventfd(0, EFD_CLOEXEC);
  int unset = -1;
  if (event < 0) return {Code::kResourceExhausted, std::string("no eventfd for SIGTERM: ") + std::strerror(errno)};
  if (!signal_event.compare_exchange_strong(unset, event)) {
    close(event);
    return {Code::kFailedPrecondition, "SIGTERM is watched already: one process holds one replica"};
  }
  try {
    std::thread(Serve, event, std::move(on_signal)).detach();
  } catch (const std::system_error& error) {
    return {Code::kResourceExhausted, std::string("no thread for SIGTERM: ") + error.what()};
  }
  struct sigaction action {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGTERM, &action, nullptr) != 0) {
    return {Code::kInternal, std::string("SIGTERM cannot be handled: ") + std::strerror(errno)};
  }
  return {};
}

void EndByTermination() {
  signal(SIGTERM, SIG_DFL);
  kill(getpid(), SIGTERM);
}

}  // namespace mesh::actor
