#include "rpc/acceptor.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace mesh::rpc {
namespace {

// Lets the process have few descriptors, and takes all but `left` of them.
class FewDescriptors {
 public:
  explicit FewDescriptors(int left) {
    getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit few{256, before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &few);
    for (int fd = dup(0); fd >= 0; fd = dup(0)) taken_.push_back(fd);
    for (; left > 0; --left) Free();
  }
  ~FewDescriptors() {
    while (!taken_.empty()) Free();
    setrlimit(RLIMIT_NOFILE, &before_);
  }
  FewDescriptors(const FewDescriptors&) = delete;
  FewDescriptors& operator=(const FewDescriptors&) = delete;

 private:
  void Free() {
    close(taken_.back());
    taken_.pop_back();
  }

  rlimit before_{};
  std::vector<int> taken_;
};

bool Connect(int fd, int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(Acceptor, WithoutDescriptorsItWaitsAndDoesNotSpin) {
  const auto loop = EventLoop::Create("test-loop");
  ASSERT_TRUE(loop.ok());
  std::atomic<int> accepted{0};
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  std::unique_ptr<Acceptor> acceptor;
  {
    const FewDescriptors few(1);  // for the listening socket: it has none in reserve
    auto listening = Acceptor::Listen("127.0.0.1", 0);
    ASSERT_TRUE(listening.ok()) << listening.status().ToString();
    acceptor = std::move(listening).value();
    ASSERT_TRUE(acceptor
                    ->Start(loop.value().get(),
                            [&accepted](int fd) {
                              close(fd);
                              ++accepted;
                            })
                    .ok());
    loop.value()->Start();
    ASSERT_TRUE(Connect(client, acceptor->port()));
    const double before = CpuSeconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    EXPECT_LT(CpuSeconds() - before, 0.1);
    EXPECT_EQ(accepted.load(), 0);
  }
  char byte = 0;
  EXPECT_EQ(recv(client, &byte, 1, 0), 0) << "it is accepted as soon as there are descriptors again";
  loop.value()->PostAndWait([&] { acceptor->Stop(); });
  loop.value()->Stop();
  close(client);
}

TEST(Acceptor, TakesTheFirstAddressThatWorks) {
  const auto listening = Acceptor::Listen("localhost", 0);
  ASSERT_TRUE(listening.ok()) << listening.status().ToString();
  EXPECT_GT(listening.value()->port(), 0);
}

TEST(Acceptor, NamesTheCause) {
  const Status status = Acceptor::Listen("192.0.2.1", 0).status();  // kept for examples: no machine has it
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_NE(status.message().find("192.0.2.1:0"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("no interface of this machine"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace mesh::rpc
