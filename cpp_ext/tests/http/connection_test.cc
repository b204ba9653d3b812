// The server's side of HTTP/1.x over real sockets.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "http/exchange.h"
#include "rpc/compression.h"
#include "rpc/server.h"

namespace mesh::http {
namespace {

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

// Whether nobody listens there any more.
bool Refused(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool refused = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0;
  close(fd);
  return refused;
}

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

std::string Post(const std::string& path, const std::string& body, const std::string& headers = "") {
  return "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + headers + "Content-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

TEST_F(ConnectionTest, KeepsTheConnection) {
  Start();
  Client client(server_->port());
  for (int i = 0; i < 3; ++i) {
    client.Send(Post("/echo", "body" + std::to_string(i)));
    const std::string head = client.ReadTo("\r\n\r\n");
    EXPECT_EQ(head.rfind("HTTP/1.1 200 OK\r\nDate: ", 0), 0U) << head;
    EXPECT_NE(head.find("\r\nContent-Length: 5\r\n"), std::string::npos) << head;
    EXPECT_EQ(head.find("Connection"), std::string::npos) << head;
    EXPECT_EQ(client.ReadTo(std::to_string(i)), "body" + std::to_string(i));
  }
  EXPECT_EQ(server_->stats().connections_total, 1U);
  EXPECT_EQ(server_->stats().calls_total, 3U);
}

TEST_F(ConnectionTest, PipelinedRequestsAreAnsweredInOrder) {
  Start();
  std::string all;
  for (int i = 0; i < 100; ++i) {
    all += i % 10 == 3 ? "GET /slow HTTP/1.1\r\n\r\n" : Post("/echo", "<" + std::to_string(i) + ">");
  }
  const std::string answer = Ask(all + "GET /last HTTP/1.1\r\nConnection: close\r\n\r\n");
  std::size_t at = 0;
  for (int i = 0; i < 100; ++i) {
    at = answer.find(i % 10 == 3 ? "slow" : "<" + std::to_string(i) + ">", at);
    ASSERT_NE(at, std::string::npos) << i;
  }
  EXPECT_NE(answer.find("nothing is at /last", at), std::string::npos);
}

TEST_F(ConnectionTest, PiecesOfEverySize) {
  Start();
  const std::string request = Post("/echo", "0123456789") + "GET /x HTTP/1.1\r\nConnection: close\r\n\r\n";
  for (std::size_t step = 1; step < request.size(); step += 3) {
    Client client(server_->port());
    for (std::size_t at = 0; at < request.size(); at += step) client.Send(request.substr(at, step));
    const std::string answer = client.ReadAll();
    EXPECT_NE(answer.find("0123456789"), std::string::npos) << step;
    EXPECT_NE(answer.find("nothing is at /x"), std::string::npos) << step;
  }
}

TEST_F(ConnectionTest, LargeBodiesBothWays) {
  Start();
  std::string body(10UL << 20, '\0');
  std::mt19937 random(2);
  for (char& byte : body) byte = static_cast<char>(random());
  Client client(server_->port());
  std::thread sender([&] { client.Send(Post("/echo", body, "Connection: close\r\n")); });
  const std::string answer = client.ReadAll();
  sender.join();
  ASSERT_GT(answer.size(), body.size());
  EXPECT_EQ(answer.substr(answer.size() - body.size()), body);
}

TEST_F(ConnectionTest, HeadHasNoBody) {
  Start();
  const std::string answer = Ask("HEAD /x HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_NE(answer.find("Content-Length: 28\r\n"), std::string::npos) << answer;
  EXPECT_EQ(answer.substr(answer.size() - 4), "\r\n\r\n");
}

TEST_F(ConnectionTest, PartsComeInChunksAndToOldClientsUntilTheEnd) {
  Start();
  const std::string chunked = Ask("GET /parts HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_NE(chunked.find("Transfer-Encoding: chunked\r\n"), std::string::npos) << chunked;
  EXPECT_NE(chunked.find("4\r\none \r\n4\r\ntwo \r\n5\r\nthree\r\n0\r\n\r\n"), std::string::npos) << chunked;
  const std::string plain = Ask("GET /parts HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(plain.find("chunked"), std::string::npos) << plain;
  EXPECT_NE(plain.find("Connection: close\r\n"), std::string::npos) << plain;
  EXPECT_EQ(plain.substr(plain.find("\r\n\r\n") + 4), "one two three");
}

TEST_F(ConnectionTest, OldClientsMayKeepTheConnection) {
  Start();
  Client client(server_->port());
  client.Send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_NE(client.ReadTo("}").find("Connection: keep-alive\r\n"), std::string::npos);
  client.Send("GET /b HTTP/1.0\r\n\r\n");
  EXPECT_NE(client.ReadAll().find("Connection: close\r\n"), std::string::npos);
}

TEST_F(ConnectionTest, WhoeverAsksIsToldToContinue) {
  Start();
  Client client(server_->port());
  client.Send("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client.ReadTo("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("ok");
  EXPECT_EQ(client.ReadTo("\r\n\r\n").rfind("HTTP/1.1 200 ", 0), 0U);
  EXPECT_EQ(client.ReadTo("ok"), "ok");
}

TEST_F(ConnectionTest, BadRequestsAreAnsweredAndTheConnectionEnds) {
  rpc::ServerOptions options;
  options.max_message_bytes = 1000;
  options.max_metadata_bytes = 1000;
  Start(options);
  const std::vector<std::pair<std::string, std::string>> cases{
      {"nonsense\r\n\r\n", " 400 "},
      {"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", " 400 "},
      {Post("/echo", std::string(1001, 'x')), " 413 "},
      {"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n", " 413 "},
      {"GET / HTTP/1.1\r\nA: " + std::string(2000, 'x') + "\r\n\r\n", " 431 "},
  };
  for (const auto& [bytes, status] : cases) {
    const std::string answer = Ask(bytes + std::string(100, 'y'));
    EXPECT_NE(answer.find(status), std::string::npos) << answer;
    EXPECT_NE(answer.find("Connection: close\r\n"), std::string::npos) << answer;
    EXPECT_NE(answer.find("{\"error\":"), std::string::npos) << answer;
  }
  EXPECT_TRUE(Eventually([&] { return server_->stats().protocol_errors == cases.size(); }));
}

TEST_F(ConnectionTest, ErrorsOfHandlersHideTheirDetail) {
  Start();
  const std::string answer = Ask("GET /throw HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_NE(answer.find(" 500 "), std::string::npos);
  EXPECT_EQ(answer.find("secret"), std::string::npos);
}

TEST_F(ConnectionTest, CompressedBodiesAreUndone) {
  rpc::ServerOptions options;
  options.max_decompressed_bytes = 3UL << 20;
  Start(options);
  for (const auto& [encoding, name] : {std::pair(rpc::Encoding::kGzip, "gzip"), {rpc::Encoding::kDeflate, "deflate"}}) {
    const std::string header = std::string("Content-Encoding: ") + name + "\r\nConnection: close\r\n";
    const std::string body(2UL << 20, 'z');
    const Result<std::string> packed = rpc::Compress(encoding, rpc::Message(body));
    ASSERT_TRUE(packed.ok());
    const std::string answer = Ask(Post("/echo", packed.value(), header));
    EXPECT_EQ(answer.substr(answer.find("\r\n\r\n") + 4), body);
    const Result<std::string> bomb = rpc::Compress(encoding, rpc::Message(std::string(4UL << 20, 'z')));
    EXPECT_NE(Ask(Post("/echo", bomb.value(), header)).find(" 413 "), std::string::npos);
    EXPECT_NE(Ask(Post("/echo", "rubbish", header)).find(" 400 "), std::string::npos);
  }
}

TEST_F(ConnectionTest, AClientThatGoesAwayCancels) {
  Start();
  Client client(server_->port());
  client.Send("GET /never HTTP/1.1\r\n\r\nGET /echo HTTP/1.1\r\n\r\n" + std::string(100000, 'x'));
  ASSERT_TRUE(Eventually([&] { return server_->stats().calls_open == 1; }));
  client.Close();
  EXPECT_TRUE(Eventually([&] { return cancelled_ == 1; }));
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections_open == 0; }));
  EXPECT_TRUE(Eventually([&] { return server_->stats().bytes_receiving == 0; }));
}

TEST_F(ConnectionTest, SlowClientsAreEnded) {
  rpc::ServerOptions options;
  options.handshake_timeout = milliseconds(700);
  options.idle_message_timeout = milliseconds(200);
  options.idle_connection_timeout = milliseconds(700);
  options.clogged_timeout = milliseconds(300);
  Start(options);
  EXPECT_EQ(Ask(""), "") << "nothing at all";
  EXPECT_NE(Ask("GET / HT").find(" 408 "), std::string::npos);
  EXPECT_NE(Ask("POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc").find(" 408 "), std::string::npos);
  EXPECT_NE(Ask("GET /x HTTP/1.1\r\n\r\n").find(" 404 "), std::string::npos) << "then idle, and closed";
  Client deaf(server_->port());
  deaf.Send("GET /large HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections_open == 0; }));
}

TEST_F(ConnectionTest, ADeafPipeliningClientCostsLittle) {
  rpc::ServerOptions options;
  options.max_pending_bytes = 1UL << 20;
  Start(options);
  Client deaf(server_->port());
  std::string many;
  for (int i = 0; i < 200; ++i) many += "GET /large HTTP/1.1\r\n\r\n";
  deaf.Send(many);
  ASSERT_TRUE(Eventually([&] { return server_->stats().bytes_unsent > 0; }));
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_LE(server_->stats().bytes_unsent, 33UL << 20);
  EXPECT_LE(server_->stats().calls_total, 3U);
}

TEST_F(ConnectionTest, DrainAnswersWhatRunsAndSaysSo) {
  Start();
  Client idle(server_->port());
  idle.Send("GET /x HTTP/1.1\r\n\r\n");
  EXPECT_EQ(idle.ReadTo("}").find("Connection: close"), std::string::npos);
  Client busy(server_->port());
  busy.Send("GET /later HTTP/1.1\r\n\r\n");
  ASSERT_TRUE(Eventually([&] { return server_->stats().calls_open == 1; }));
  std::thread drain([&] { EXPECT_TRUE(server_->Drain(std::chrono::seconds(60))); });
  EXPECT_EQ(idle.ReadAll(), "") << "closed while the other one still runs";
  Release();
  const std::string answer = busy.ReadAll();
  drain.join();
  EXPECT_NE(answer.find("Connection: close\r\n"), std::string::npos) << answer;
  EXPECT_NE(answer.find("later"), std::string::npos);
}

TEST_F(ConnectionTest, DrainAnswersRequestsThatAreOnTheirWay) {
  bool in_time = false;
  for (int round = 0; round < 50 && !in_time; ++round) {
    Start();
    Hold();
    Client idle(server_->port());
    idle.Send("GET /x HTTP/1.1\r\n\r\n");
    EXPECT_EQ(idle.ReadTo("}").find("Connection: close"), std::string::npos);
    Client silent(server_->port());
    Client witness(server_->port());
    ASSERT_TRUE(Eventually([&] { return server_->stats().connections_open == 3; }));
    std::thread drain([&] { EXPECT_TRUE(server_->Drain(std::chrono::seconds(60))); });
    EXPECT_TRUE(Eventually([&] { return Refused(server_->port()); }));
    idle.Send("GET /later HTTP/1.1\r\n\r\n");
    silent.Send("GET /later HTTP/1.1\r\n\r\n");
    EXPECT_EQ(witness.ReadAll(), "") << "the time for requests that are on their way is over";
    in_time = server_->stats().calls_open == 2;  // else this thread had no turn in that time: once more
    Release();
    for (Client* client : {&idle, &silent}) {
      const std::string answer = client->ReadAll();
      if (!in_time) continue;
      EXPECT_NE(answer.find("Connection: close\r\n"), std::string::npos) << answer;
      EXPECT_NE(answer.find("later"), std::string::npos) << answer;
    }
    drain.join();
  }
  EXPECT_TRUE(in_time);
}

TEST_F(ConnectionTest, StopCancelsWhatRuns) {
  Start();
  Client client(server_->port());
  client.Send("GET /never HTTP/1.1\r\n\r\n");
  ASSERT_TRUE(Eventually([&] { return server_->stats().calls_open == 1; }));
  server_->Stop();
  EXPECT_EQ(cancelled_, 1);
  EXPECT_NE(client.ReadAll().find(" 503 "), std::string::npos);
}

TEST_F(ConnectionTest, AnswersAfterTheEndAreDropped) {
  Start();
  {
    Client client(server_->port());
    client.Send("GET /later HTTP/1.1\r\n\r\n");
    ASSERT_TRUE(Eventually([&] { return server_->stats().calls_open == 1; }));
  }
  EXPECT_TRUE(Eventually([&] { return server_->stats().connections_open == 0; }));
  Release();
  EXPECT_NE(Ask("GET /x HTTP/1.1\r\nConnection: close\r\n\r\n").find(" 404 "), std::string::npos);
}

TEST_F(ConnectionTest, Http2IsStillServedAndGarbageIsNot) {
  Start();
  Client http2(server_->port());
  http2.Send(std::string_view("PRI * HTTP/2.0\r\n", 8));
  http2.Send("TP/2.0\r\n\r\nSM\r\n\r\n" + std::string("\0\0\0\4\0\0\0\0\0", 9));
  const std::string settings = http2.ReadTo(std::string_view("\0\0\0\4\1\0\0\0\0", 9));
  EXPECT_GT(settings.size(), 18U) << "the server's settings and the acknowledgement of the client's";
  EXPECT_EQ(Ask(std::string("\x16\x03\x01", 3)).find("HTTP/1.1"), std::string::npos);
}

TEST_F(ConnectionTest, RubbishThenOneGoodRequest) {
  Start();
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    std::string bytes(random() % 200, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    Client client(server_->port());
    client.Send(bytes);
  }
  EXPECT_NE(Ask("GET /x HTTP/1.1\r\nConnection: close\r\n\r\n").find(" 404 "), std::string::npos);
}

}  // namespace
}  // namespace mesh::http
