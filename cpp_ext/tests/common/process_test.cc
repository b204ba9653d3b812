#include "common/process.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <thread>

namespace mesh {
namespace {

CommandOutcome RunIt(std::vector<std::string> arguments) {
  Command command;
  command.arguments = std::move(arguments);
  Result<CommandOutcome> outcome = RunCommand(command);
  EXPECT_TRUE(outcome.ok()) << outcome.status().ToString();
  return outcome.ok() ? outcome.value() : CommandOutcome();
}

// Processes in D or Z state count as there until they are reaped.
bool WaitGone(pid_t pid) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < end) {
    if (kill(pid, 0) != 0 && errno == ESRCH) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

TEST(ProcessTest, TakesOutputErrorsAndExitCode) {
  const CommandOutcome outcome = RunIt({"sh", "-c", "echo out; echo err >&2; exit 3"});
  EXPECT_EQ(outcome.output, "out\n");
  EXPECT_EQ(outcome.errors, "err\n");
  EXPECT_EQ(outcome.exit_code, 3);
}

TEST(ProcessTest, LargeOutputsKeepTheirEnd) {
  Command command;
  command.arguments = {"sh", "-c", "yes | head -c 3000000; echo; echo last"};
  command.max_output = 1000;
  const auto outcome = RunCommand(command);
  ASSERT_TRUE(outcome.ok());
  EXPECT_EQ(outcome.value().output.size(), 1000U);
  EXPECT_EQ(LastLine(outcome.value().output), "last");
}

TEST(ProcessTest, AProgramThatIsNotThereIsNamed) {
  Command command;
  command.arguments = {"/no/such/program"};
  EXPECT_NE(RunCommand(command).status().message().find("/no/such/program"), std::string::npos);
  command.arguments.clear();
  EXPECT_EQ(RunCommand(command).status().code(), Code::kInvalidArgument);
}

TEST(ProcessTest, ASignalIsAnExitCode) { EXPECT_EQ(RunIt({"sh", "-c", "kill -9 $$"}).exit_code, 128 + SIGKILL); }

TEST(ProcessTest, ATimeoutKillsTheWholeGroup) {
  Command command;
  command.arguments = {"sh", "-c", "sleep 1000 & echo $!; sleep 1000"};
  command.timeout = std::chrono::seconds(3);
  std::string said;
  while (said.empty()) {  // again where the machine stops before it has said anything
    const auto outcome = RunCommand(command);
    ASSERT_TRUE(outcome.ok());
    EXPECT_TRUE(outcome.value().timed_out);
    said = outcome.value().output;
  }
  EXPECT_TRUE(WaitGone(std::stoi(said)));
}

TEST(ProcessTest, WhatIsLeftBehindIsKilledAndNotWaitedFor) {
  const CommandOutcome outcome = RunIt({"sh", "-c", "sleep 1000 & echo $!"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_TRUE(WaitGone(std::stoi(outcome.output)));
}

TEST(ProcessTest, CanBeCancelled) {
  std::atomic<bool> cancelled{false};
  Command command;
  command.arguments = {"sleep", "1000"};
  command.cancelled = &cancelled;
  std::thread canceller([&cancelled] { cancelled.store(true); });
  const auto outcome = RunCommand(command);
  canceller.join();
  ASSERT_TRUE(outcome.ok());
  EXPECT_TRUE(outcome.value().cancelled);
}

TEST(ProcessTest, BlockedAndIgnoredSignalsAreNotInherited) {
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto handler = signal(SIGINT, SIG_IGN);
  EXPECT_EQ(RunIt({"sh", "-c", "kill -TERM $$; sleep 100"}).exit_code, 128 + SIGTERM);
  EXPECT_EQ(RunIt({"sh", "-c", "kill -INT $$; sleep 100"}).exit_code, 128 + SIGINT);
  signal(SIGINT, handler);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST(LastLineTest, SkipsBlankLines) {
  EXPECT_EQ(LastLine("a\nb\n\n  \n"), "b");
  EXPECT_EQ(LastLine("only"), "only");
  EXPECT_EQ(LastLine(" \n"), "");
  EXPECT_EQ(LastLine(""), "");
}

}  // namespace
}  // namespace mesh
