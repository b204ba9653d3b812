// A real server of HTTP/1.x, and a client that sends it bytes.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "http/exchange.h"
#include "rpc/server.h"

namespace mesh::http {

using std::chrono::milliseconds;

class Client {
 public:
  explicit Client(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    const timeval limit{60, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  ~Client() { Close(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void Send(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t sent = send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      text.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  // Until the server closes.
  std::string ReadAll() {
    while (ReadMore()) {
    }
    return std::exchange(received_, {});
  }
  // Until `end` has come, and that included.
  std::string ReadTo(std::string_view end) {
    std::size_t at = received_.find(end);
    while (at == std::string::npos && ReadMore()) at = received_.find(end);
    at = at == std::string::npos ? received_.size() : at + end.size();
    std::string read = received_.substr(0, at);
    received_.erase(0, at);
    return read;
  }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  bool ReadMore() {
    char buffer[65536];
    const ssize_t got = recv(fd_, buffer, sizeof(buffer), 0);
    if (got <= 0) return false;
    received_.append(buffer, static_cast<std::size_t>(got));
    return true;
  }
  int fd_;
  std::string received_;
};

// Waits until something is so.
template <typename Condition>
bool Eventually(Condition condition) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return true;
}

class ConnectionTest : public testing::Test {
 protected:
  ~ConnectionTest() override {
    if (server_ != nullptr) server_->Stop();
    Release();
    for (std::thread& thread : threads_) thread.join();
  }

  // What is asked at /later waits from now on, until it is released.
  void Hold() {
    release_ = {};
    released_ = release_.get_future();
  }
  void Release() {
    if (released_.wait_for(milliseconds(0)) != std::future_status::ready) release_.set_value();
  }

  void Start(rpc::ServerOptions options = {}) {
    server_ = std::make_unique<rpc::Server>(std::move(options));
    server_->SetHttp(Serve([this](const std::shared_ptr<Exchange>& exchange) { Handle(exchange); }));
    const Status status = server_->Start();
    ASSERT_TRUE(status.ok()) << status.ToString();
  }

  void Handle(const std::shared_ptr<Exchange>& exchange) {
    const std::string path(exchange->request().path());
    if (path == "/echo") {
      Response response;
      response.content_type = kPlainText;
      response.body.Append(exchange->request().TakeBody());
      exchange->Respond(std::move(response));
    } else if (path == "/later") {
      threads_.emplace_back([exchange, released = released_] {
        released.wait();
        exchange->Respond(Text(200, kPlainText, "later"));
      });
    } else if (path == "/slow") {
      threads_.emplace_back([exchange] {
        std::this_thread::sleep_for(milliseconds(50));
        exchange->Respond(Text(200, kPlainText, "slow"));
      });
    } else if (path == "/never") {
      exchange->OnCancel([this] { ++cancelled_; });
      held_.push_back(exchange);
    } else if (path == "/parts") {
      threads_.emplace_back([exchange] {
        Response head;
        head.content_type = kPlainText;
        exchange->Begin(std::move(head));
        for (const char* part : {"one ", "two ", "three"}) exchange->Write(rpc::Message(std::string(part)));
        exchange->End();
      });
    } else if (path == "/large") {
      exchange->Respond(Text(200, kPlainText, std::string(16UL << 20, 'x')));
    } else if (path == "/throw") {
      throw std::runtime_error("secret");
    } else {
      exchange->Respond(JsonError(404, "nothing is at " + path));
    }
  }

  [[nodiscard]] std::string Ask(const std::string& bytes) const {
    Client client(server_->port());
    client.Send(bytes);
    return client.ReadAll();
  }

  std::unique_ptr<rpc::Server> server_;
  std::vector<std::thread> threads_;
  std::vector<std::shared_ptr<Exchange>> held_;
  std::atomic<int> cancelled_{0};
  std::promise<void> release_;
  std::shared_future<void> released_{release_.get_future()};
};

inline std::string Post(const std::string& path, const std::string& body, const std::string& headers = "") {
  return "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + headers + "Content-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

}  // namespace mesh::http
