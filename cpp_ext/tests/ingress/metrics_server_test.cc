#include "ingress/metrics_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "ingress/http_request.h"

namespace mesh::ingress {
namespace {

class UnconnectedClient {
 public:
  UnconnectedClient() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {}
  ~UnconnectedClient() { close(fd_); }
  UnconnectedClient(const UnconnectedClient&) = delete;
  UnconnectedClient& operator=(const UnconnectedClient&) = delete;
  [[nodiscard]] bool Connect(int port) const {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  void Send(const std::string& text) const { static_cast<void>(send(fd_, text.data(), text.size(), MSG_NOSIGNAL)); }
  [[nodiscard]] std::string ReadAll() const {
    std::string all;
    char buffer[4096];
    for (ssize_t got = 0; (got = recv(fd_, buffer, sizeof(buffer), 0)) > 0;) {
      all.append(buffer, static_cast<std::size_t>(got));
    }
    return all;
  }

 private:
  int fd_;
};

class Client : public UnconnectedClient {
 public:
  explicit Client(int port) { EXPECT_TRUE(Connect(port)); }
};

class MetricsServerTest : public testing::Test {
 protected:
  void Start(const MetricsServerOptions& options = {}) {
    server_ = std::make_unique<MetricsServer>(options, [this]() -> Result<std::string> { return text_(); });
    const Status status = server_->Start();
    ASSERT_TRUE(status.ok()) << status.ToString();
  }
  [[nodiscard]] std::string Ask(const std::string& request) const {
    const Client client(server_->port());
    client.Send(request);
    return client.ReadAll();
  }

  std::function<Result<std::string>()> text_ = [] { return std::string("mesh_up 1\n"); };
  std::unique_ptr<MetricsServer> server_;
};

TEST_F(MetricsServerTest, ServesTheText) {
  Start();
  const std::string answer = Ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(answer.rfind("HTTP/1.1 200 OK\r\n", 0), 0U) << answer;
  EXPECT_NE(answer.find("Content-Length: 10\r\n"), std::string::npos);
  EXPECT_EQ(answer.substr(answer.size() - 10), "mesh_up 1\n");
  const std::string head = Ask("HEAD /metrics?x=1 HTTP/1.0\r\n\r\n");
  EXPECT_EQ(head.find("mesh_up"), std::string::npos);
  EXPECT_NE(head.find("Content-Length: 10\r\n"), std::string::npos);
}

TEST_F(MetricsServerTest, OtherRequestsGetTheirStatus) {
  Start();
  EXPECT_NE(Ask("GET / HTTP/1.1\r\n\r\n").find(" 404 "), std::string::npos);
  EXPECT_NE(Ask("POST /metrics HTTP/1.1\r\n\r\n").find(" 405 "), std::string::npos);
  EXPECT_NE(Ask("nonsense\r\n\r\n").find(" 400 "), std::string::npos);
  EXPECT_NE(Ask("GET /metrics HTTP/1.1\r\nX: " + std::string(20000, 'x')).find(" 431 "), std::string::npos);
}

TEST_F(MetricsServerTest, FailuresAreInternalAndHideTheirDetail) {
  text_ = []() -> Result<std::string> { return Status(Code::kUnavailable, "secret detail"); };
  Start();
  std::string answer = Ask("GET /metrics HTTP/1.1\r\n\r\n");
  EXPECT_NE(answer.find(" 500 "), std::string::npos);
  EXPECT_EQ(answer.find("secret"), std::string::npos);
  text_ = []() -> Result<std::string> { throw std::runtime_error("thrown"); };
  answer = Ask("GET /metrics HTTP/1.1\r\n\r\n");
  EXPECT_NE(answer.find(" 500 "), std::string::npos);
}

TEST_F(MetricsServerTest, SlowClientsAreDroppedAndBlockNobody) {
  MetricsServerOptions options;
  options.timeout = std::chrono::milliseconds(300);
  Start(options);
  const Client slow(server_->port());
  slow.Send("GET /met");
  EXPECT_NE(Ask("GET /metrics HTTP/1.1\r\n\r\n").find("mesh_up"), std::string::npos);
  EXPECT_EQ(slow.ReadAll(), "") << "closed without an answer";
}

TEST_F(MetricsServerTest, MoreConnectionsThanAllowedWait) {
  MetricsServerOptions options;
  options.max_connections = 2;
  options.timeout = std::chrono::milliseconds(500);
  Start(options);
  const Client first(server_->port());
  const Client second(server_->port());
  EXPECT_NE(Ask("GET /metrics HTTP/1.1\r\n\r\n").find("mesh_up"), std::string::npos) << "served after the two ran out";
}

TEST_F(MetricsServerTest, LargeTextsAndSlowReaders) {
  text_ = [] { return std::string(8 << 20, 'm'); };
  Start();
  const Client reader(server_->port());
  reader.Send("GET /metrics HTTP/1.1\r\n\r\n");
  EXPECT_GT(reader.ReadAll().size(), 8U << 20);
}

TEST_F(MetricsServerTest, RubbishThenOneGoodRequest) {
  Start();
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    std::string bytes(random() % 200, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    const Client client(server_->port());
    client.Send(bytes);
  }
  EXPECT_NE(Ask("GET /metrics HTTP/1.1\r\n\r\n").find("mesh_up"), std::string::npos);
}

// Takes all descriptors that the process may have, and lets them go again.
class NoDescriptors {
 public:
  NoDescriptors() {
    getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit few{256, before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &few);
    for (int fd = dup(0); fd >= 0; fd = dup(0)) taken_.push_back(fd);
  }
  ~NoDescriptors() {
    for (const int fd : taken_) close(fd);
    setrlimit(RLIMIT_NOFILE, &before_);
  }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_{};
  std::vector<int> taken_;
};

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST_F(MetricsServerTest, WithoutDescriptorsItWaitsAndDoesNotSpin) {
  Start();
  const UnconnectedClient client;
  {
    const NoDescriptors none;
    ASSERT_TRUE(client.Connect(server_->port()));
    const double before = CpuSeconds();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    EXPECT_LT(CpuSeconds() - before, 0.1);
  }
  client.Send("GET /metrics HTTP/1.1\r\n\r\n");
  EXPECT_NE(client.ReadAll().find("mesh_up"), std::string::npos);
}

TEST_F(MetricsServerTest, ListensOnAnyAddressOfAName) {
  MetricsServerOptions options;
  options.host = "localhost";
  Start(options);
  EXPECT_GT(server_->port(), 0);
}

TEST_F(MetricsServerTest, ATakenPortIsNamed) {
  Start();
  MetricsServerOptions options;
  options.port = server_->port();
  MetricsServer second(options, [] { return std::string(); });
  const Status status = second.Start();
  EXPECT_EQ(status.code(), Code::kAlreadyExists);
  EXPECT_NE(status.message().find(server_->address()), std::string::npos);
  options.host = "no such host";
  MetricsServer third(options, [] { return std::string(); });
  EXPECT_EQ(third.Start().code(), Code::kInvalidArgument);
}

TEST(HttpRequest, IsReadInPieces) {
  const std::string whole = "GET /metrics?a=b HTTP/1.1\r\nHost: x\r\n\r\n";
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_EQ(ParseHttpRequest(whole.substr(0, size)).state, HttpRequest::State::kIncomplete) << size;
  }
  const HttpRequest request = ParseHttpRequest(whole);
  EXPECT_EQ(request.state, HttpRequest::State::kComplete);
  EXPECT_EQ(request.path, "/metrics");
  for (const char* bad : {"GET\r\n\r\n", "GET /\r\n", "GET / HTTP/2\r\n", " / HTTP/1.1\r\n", "GET  HTTP/1.1\r\n"}) {
    EXPECT_EQ(ParseHttpRequest(bad).state, HttpRequest::State::kBad) << bad;
  }
}

}  // namespace
}  // namespace mesh::ingress
