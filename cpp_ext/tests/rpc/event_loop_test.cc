#include "rpc/event_loop.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace mesh::rpc {
namespace {

using std::chrono::milliseconds;

std::shared_ptr<EventLoop> StartedLoop() {
  auto loop = EventLoop::Create("test-loop");
  EXPECT_TRUE(loop.ok());
  loop.value()->Start();
  return loop.value();
}

TEST(EventLoop, RunsWorkOfManyThreadsInTheirOrder) {
  const auto loop = StartedLoop();
  constexpr int kThreads = 8, kEach = 20'000;
  std::vector<std::vector<int>> seen(kThreads);
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < kEach; ++i)
        loop->Post([&seen, thread, i] { seen[static_cast<std::size_t>(thread)].push_back(i); });
    });
  }
  for (std::thread& thread : threads) thread.join();
  loop->Stop();
  for (const auto& numbers : seen) {
    ASSERT_EQ(numbers.size(), static_cast<std::size_t>(kEach));
    EXPECT_TRUE(std::is_sorted(numbers.begin(), numbers.end()));
  }
}

TEST(EventLoop, WakesFromSleep) {
  const auto loop = StartedLoop();
  for (int i = 0; i < 2000; ++i) {
    std::promise<void> ran;
    loop->Post([&ran] { ran.set_value(); });
    ran.get_future().wait();
  }
  loop->Stop();
}

TEST(EventLoop, TimersFireInOrderAndNotWhenDisarmed) {
  const auto loop = StartedLoop();
  std::vector<int> fired;
  std::vector<std::unique_ptr<Timer>> timers;
  std::promise<void> last;
  loop->PostAndWait([&] {
    std::mt19937 random(5);
    const auto start = loop->now();
    std::vector<int> order(500);
    for (int i = 0; i < 500; ++i) order[static_cast<std::size_t>(i)] = i;
    for (int i = 0; i < 500; ++i) timers.push_back(std::make_unique<Timer>([&fired, i] { fired.push_back(i); }));
    std::shuffle(order.begin(), order.end(), random);
    for (const int i : order) loop->Arm(timers[static_cast<std::size_t>(i)].get(), start + milliseconds(i / 5));
    for (int i = 0; i < 500; i += 3) loop->Disarm(timers[static_cast<std::size_t>(i)].get());
    for (int i = 1; i < 500; i += 9) timers[static_cast<std::size_t>(i)].reset();
    timers.push_back(std::make_unique<Timer>([&last] { last.set_value(); }));
    loop->Arm(timers.back().get(), start + milliseconds(150));
  });
  last.get_future().wait();
  loop->PostAndWait([&] { timers.clear(); });
  loop->Stop();
  std::size_t expected = 0;
  for (int i = 0; i < 500; ++i) expected += (i % 3 != 0 && i % 9 != 1) ? 1 : 0;
  EXPECT_EQ(fired.size(), expected);
  EXPECT_TRUE(std::is_sorted(fired.begin(), fired.end(), [](int a, int b) { return a / 5 < b / 5; }));
}

TEST(EventLoop, TimerMayArmAndDestroyItself) {
  const auto loop = StartedLoop();
  std::promise<void> done;
  int count = 0;
  std::unique_ptr<Timer> timer;
  loop->PostAndWait([&] {
    timer = std::make_unique<Timer>([&] {
      if (++count < 3) {
        loop->Arm(timer.get(), loop->now());
        return;
      }
      loop->Post([&] {
        timer.reset();
        done.set_value();
      });
    });
    loop->Arm(timer.get(), loop->now() + milliseconds(1));
  });
  done.get_future().wait();
  loop->Stop();
  EXPECT_EQ(count, 3);
}

TEST(EventLoop, WorkPostedAfterStopIsFreedAndNotRun) {
  auto loop = StartedLoop();
  loop->Stop();
  const auto held = std::make_shared<int>(1);
  bool ran = false;
  loop->Post([held, &ran] { ran = true; });
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_FALSE(ran);
}

TEST(EventLoop, WorkThatHoldsItsLoopDoesNotKeepItAlive) {
  auto loop = StartedLoop();
  loop->Stop();
  loop->Post([loop] {});
  const std::weak_ptr<EventLoop> weak = loop;
  loop.reset();
  EXPECT_TRUE(weak.expired());
}

TEST(EventLoop, WorkPostedWhileItStopsIsRunOrFreed) {
  for (int round = 0; round < 300; ++round) {
    const auto loop = StartedLoop();
    const auto held = std::make_shared<int>(1);
    std::vector<std::thread> threads;
    threads.reserve(3);
    for (int thread = 0; thread < 3; ++thread) {
      threads.emplace_back([loop, held] {
        for (int i = 0; i < 50; ++i) loop->Post([held] {});
      });
    }
    loop->Stop();
    for (std::thread& thread : threads) thread.join();
    threads.clear();
    EXPECT_EQ(held.use_count(), 1) << round;
  }
}

TEST(EventLoop, PostAndWaitReturnsWhileItStops) {
  for (int round = 0; round < 300; ++round) {
    const auto loop = StartedLoop();
    std::atomic<int> ran{0};
    std::thread waiter([&] {
      for (int i = 0; i < 20; ++i) loop->PostAndWait([&ran] { ++ran; });
    });
    loop->Stop();
    waiter.join();
    EXPECT_EQ(ran.load(), 20);
  }
}

TEST(EventLoop, StopFromItsOwnThread) {
  const auto loop = StartedLoop();
  std::promise<void> stopped;
  loop->Post([&] {
    loop->Stop();
    stopped.set_value();
  });
  stopped.get_future().wait();
  loop->Stop();
}

}  // namespace
}  // namespace mesh::rpc
