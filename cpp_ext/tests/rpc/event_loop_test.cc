#include "rpc/event_loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <ctime>
#include <future>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/poll.h"

namespace mesh::rpc {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

std::shared_ptr<EventLoop> StartedLoop(microseconds busy_poll) {
  auto loop = EventLoop::Create("test-loop", busy_poll);
  EXPECT_TRUE(loop.ok());
  loop.value()->Start();
  return loop.value();
}

// Whatever a loop does holds for one that sleeps at once, for one that often stops polling just when something comes,
// and for one that polls all the time.
class EventLoops : public testing::TestWithParam<microseconds> {
 protected:
  static std::shared_ptr<EventLoop> StartedLoop() { return rpc::StartedLoop(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(BusyPoll, EventLoops, testing::Values(microseconds(0), microseconds(5), microseconds(1000)),
                         [](const auto& info) { return std::to_string(info.param.count()) + "us"; });

TEST_P(EventLoops, RunsWorkOfManyThreadsInTheirOrder) {
  const auto loop = StartedLoop();
  constexpr int kThreads = 8, kEach = 20'000;
  std::vector<std::vector<int>> seen(kThreads);
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < kEach; ++i) {
        loop->Post([&seen, thread, i] { seen[static_cast<std::size_t>(thread)].push_back(i); });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  loop->Stop();
  for (const auto& numbers : seen) {
    ASSERT_EQ(numbers.size(), static_cast<std::size_t>(kEach));
    EXPECT_TRUE(std::is_sorted(numbers.begin(), numbers.end()));
  }
}

TEST_P(EventLoops, WakesFromSleep) {
  const auto loop = StartedLoop();
  for (int i = 0; i < 2000; ++i) {
    std::promise<void> ran;
    loop->Post([&ran] { ran.set_value(); });
    ran.get_future().wait();
  }
  loop->Stop();
}

TEST_P(EventLoops, TimersFireInOrderAndNotWhenDisarmed) {
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

TEST_P(EventLoops, TimerMayArmAndDestroyItself) {
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

TEST_P(EventLoops, WorkPostedAfterStopIsFreedAndNotRun) {
  auto loop = StartedLoop();
  loop->Stop();
  const auto held = std::make_shared<int>(1);
  bool ran = false;
  loop->Post([held, &ran] { ran = true; });
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_FALSE(ran);
}

TEST_P(EventLoops, WorkThatHoldsItsLoopDoesNotKeepItAlive) {
  auto loop = StartedLoop();
  loop->Stop();
  loop->Post([loop] {});
  const std::weak_ptr<EventLoop> weak = loop;
  loop.reset();
  EXPECT_TRUE(weak.expired());
}

TEST_P(EventLoops, WorkPostedWhileItStopsIsRunOrFreed) {
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

TEST_P(EventLoops, PostAndWaitReturnsWhileItStops) {
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

TEST_P(EventLoops, StopFromItsOwnThread) {
  const auto loop = StartedLoop();
  std::promise<void> stopped;
  loop->Post([&] {
    loop->Stop();
    stopped.set_value();
  });
  stopped.get_future().wait();
  loop->Stop();
}

// Far longer than anything below may take: a loop that polls on has missed something.
constexpr std::chrono::seconds kForEver{3600};
constexpr std::chrono::seconds kPatience{60};

// CPU time of all threads of this process.
std::chrono::nanoseconds CpuTime() {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

TEST(BusyPolling, SleepsAfterTheGivenTimeAndTakesNoCpuTimeThen) {
  const auto loop = StartedLoop(milliseconds(20));
  std::uint64_t slept = 0;
  loop->PostAndWait([&] { slept = loop->sleeps(); });
  ASSERT_TRUE(PollUntil(steady_clock::now() + kPatience, [&] { return loop->sleeps() > slept; }));
  const auto before = CpuTime();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  EXPECT_LT(CpuTime() - before, milliseconds(100));
  EXPECT_EQ(loop->sleeps(), slept + 1);
  loop->Stop();
}

TEST(BusyPolling, TakesWorkWithoutSleeping) {
  const auto loop = StartedLoop(kForEver);
  loop->PostAndWait([] {});  // from here it polls
  const std::uint64_t slept = loop->sleeps();
  for (int i = 0; i < 2000; ++i) loop->PostAndWait([] {});
  EXPECT_EQ(loop->sleeps(), slept);
  loop->Stop();  // and ends, though it polls
}

TEST(BusyPolling, TimersFireWhileItPolls) {
  const auto loop = StartedLoop(kForEver);
  std::promise<steady_clock::time_point> fired;
  Timer timer([&] { fired.set_value(loop->now()); });
  steady_clock::time_point due;
  loop->PostAndWait([&] {
    due = loop->now() + milliseconds(20);
    loop->Arm(&timer, due);
  });
  const std::uint64_t slept = loop->sleeps();
  auto when = fired.get_future();
  ASSERT_EQ(when.wait_for(kPatience), std::future_status::ready);
  EXPECT_GE(when.get(), due);
  EXPECT_EQ(loop->sleeps(), slept);
  loop->Stop();
}

TEST(BusyPolling, ATimerThatIsDueAfterItsEndFiresToo) {
  const auto loop = StartedLoop(milliseconds(1));
  std::promise<void> fired;
  Timer timer([&] { fired.set_value(); });
  loop->PostAndWait([&] { loop->Arm(&timer, loop->now() + milliseconds(50)); });
  EXPECT_EQ(fired.get_future().wait_for(kPatience), std::future_status::ready);
  loop->Stop();
}

TEST(BusyPolling, SeesDescriptorsWhileItPolls) {
  const auto loop = StartedLoop(kForEver);
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC), 0);
  class Reader : public IoHandler {
   public:
    explicit Reader(int fd) : fd_(fd) {}
    void OnReady(std::uint32_t) override {
      char byte = 0;
      if (read(fd_, &byte, 1) == 1) got.fetch_add(1);
    }
    std::atomic<int> got{0};

   private:
    const int fd_;
  } reader(ends[0]);
  loop->PostAndWait([&] { ASSERT_TRUE(loop->Add(ends[0], EPOLLIN, &reader).ok()); });
  const std::uint64_t slept = loop->sleeps();
  for (int i = 1; i <= 100; ++i) {
    ASSERT_EQ(write(ends[1], "x", 1), 1);
    ASSERT_TRUE(PollUntil(steady_clock::now() + kPatience, [&] { return reader.got.load() == i; }));
  }
  EXPECT_EQ(loop->sleeps(), slept);
  loop->PostAndWait([&] { loop->Remove(ends[0], &reader); });
  loop->Stop();
  for (const int fd : ends) close(fd);
}

// Work comes after pauses around the time for which the loop polls, so that many tasks meet it on its way to sleep.
TEST(BusyPolling, NothingIsLostBetweenPollingAndSleep) {
  const auto loop = StartedLoop(microseconds(20));
  std::mt19937 random(7);
  for (int i = 0; i < 20'000; ++i) {
    auto ran = std::make_shared<std::promise<void>>();
    auto done = ran->get_future();
    loop->Post([ran] { ran->set_value(); });
    ASSERT_EQ(done.wait_for(kPatience), std::future_status::ready) << i;
    const auto next = steady_clock::now() + microseconds(random() % 40);
    while (steady_clock::now() < next) {
    }
  }
  EXPECT_GT(loop->sleeps(), 0U);
  loop->Stop();
}

}  // namespace
}  // namespace mesh::rpc
