// Waiting for facts that nobody tells of.
#pragma once

#include <algorithm>
#include <chrono>
#include <thread>

namespace mesh {

// Asks `done` again and again, after pauses that grow from 1 to 20 ms. False when it was not true by `until`.
template <typename Done>
[[nodiscard]] bool PollUntil(std::chrono::steady_clock::time_point until, Done done) {
  constexpr std::chrono::milliseconds kLongestPause{20};
  for (std::chrono::milliseconds pause{1}; !done(); pause = std::min(pause * 2, kLongestPause)) {
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(pause);
  }
  return true;
}

}  // namespace mesh
