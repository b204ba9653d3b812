// Requests and answers of HTTP/1.x over real sockets.
#include <random>

#include "rpc/compression.h"
#include "tests/http/connection_fixture.h"

namespace mesh::http {
namespace {

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

}  // namespace
}  // namespace mesh::http
