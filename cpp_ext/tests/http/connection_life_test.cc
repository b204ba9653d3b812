// How connections of HTTP/1.x end, and clients that mean no good.
#include <random>

#include "tests/http/connection_fixture.h"

namespace mesh::http {
namespace {

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
  // Again where the machine stops before the server has the first byte: then it is nothing at all.
  const auto answers = [this](const std::string& request, const char* status) {
    return Eventually([&] { return Ask(request).find(status) != std::string::npos; });
  };
  EXPECT_EQ(Ask(""), "") << "nothing at all";
  EXPECT_TRUE(answers("GET / HT", " 408 "));
  EXPECT_TRUE(answers("POST /echo HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc", " 408 "));
  EXPECT_TRUE(answers("GET /x HTTP/1.1\r\n\r\n", " 404 ")) << "then idle, and closed";
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
