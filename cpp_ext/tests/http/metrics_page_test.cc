#include "http/metrics_page.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <stdexcept>
#include <string>

namespace mesh::http {
namespace {

class MetricsPageTest : public testing::Test {
 protected:
  void Start() {
    server_ = NewMetricsServer("127.0.0.1", [this] { return text_(); });
    const Status status = server_->Start();
    ASSERT_TRUE(status.ok()) << status.ToString();
  }

  // The whole answer to a request that ends its connection.
  [[nodiscard]] std::string Ask(const std::string& line, const std::string& more = "") const {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(server_->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    const std::string request = line + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + more + "\r\n";
    EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
    std::string all;
    char buffer[4096];
    for (ssize_t got = 0; (got = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
      all.append(buffer, static_cast<std::size_t>(got));
    }
    close(fd);
    return all;
  }

  std::function<Result<std::string>()> text_ = [] { return std::string("mesh_up 1\n"); };
  std::unique_ptr<rpc::Server> server_;
};

TEST_F(MetricsPageTest, ServesTheText) {
  Start();
  const std::string answer = Ask("GET /metrics?x=1");
  EXPECT_EQ(answer.rfind("HTTP/1.1 200 OK\r\n", 0), 0U) << answer;
  EXPECT_NE(answer.find("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), std::string::npos);
  EXPECT_NE(answer.find("Content-Length: 10\r\n"), std::string::npos);
  EXPECT_EQ(answer.substr(answer.size() - 10), "mesh_up 1\n");
  const std::string head = Ask("HEAD /metrics");
  EXPECT_EQ(head.find("mesh_up"), std::string::npos);
  EXPECT_NE(head.find("Content-Length: 10\r\n"), std::string::npos);
}

TEST_F(MetricsPageTest, OtherRequestsGetTheirStatus) {
  Start();
  EXPECT_NE(Ask("GET /").find(" 404 "), std::string::npos);
  EXPECT_NE(Ask("POST /metrics").find("Allow: GET, HEAD\r\n"), std::string::npos);
  EXPECT_NE(Ask("POST /metrics").find(" 405 "), std::string::npos);
  EXPECT_NE(Ask("POST /metrics", "Content-Length: 5000\r\n").find(" 413 "), std::string::npos);
  EXPECT_NE(Ask("GET /metrics", "X: " + std::string(20000, 'x') + "\r\n").find(" 431 "), std::string::npos);
}

TEST_F(MetricsPageTest, FailuresAreInternalAndHideTheirDetail) {
  text_ = []() -> Result<std::string> { return Status(Code::kUnavailable, "secret detail"); };
  Start();
  const std::string answer = Ask("GET /metrics");
  EXPECT_NE(answer.find(" 500 "), std::string::npos);
  EXPECT_EQ(answer.find("secret"), std::string::npos);
  text_ = []() -> Result<std::string> { throw std::runtime_error("thrown"); };
  EXPECT_NE(Ask("GET /metrics").find(" 500 "), std::string::npos);
}

TEST_F(MetricsPageTest, LargeTexts) {
  text_ = [] { return std::string(8 << 20, 'm'); };
  Start();
  EXPECT_GT(Ask("GET /metrics").size(), 8U << 20);
}

TEST_F(MetricsPageTest, ATakenPortIsNamed) {
  Start();
  rpc::ServerOptions options;
  options.port = server_->port();
  rpc::Server second(options);
  EXPECT_NE(second.Start().message().find(server_->address()), std::string::npos);
}

}  // namespace
}  // namespace mesh::http
