// What a request through a proxy costs at least on a machine: the time in which 200 bytes go from a client over one
// thread that passes them on to one that gives them back, and return, over TCP on loopback, with nothing else done.
//
//   loopback_chain --rounds=N --servers=CPUS --client=CPUS     (CPUS as in 0,1)
//
// Prints {"p50_us", "p99_us"}.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using std::chrono::steady_clock;

constexpr std::size_t kBytes = 200;  // a request of 64 bytes with its frames and names
using Buffer = std::array<char, kBytes>;

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "loopback_chain: %s\n", why.c_str());
  std::exit(2);
}

void Check(bool good, const char* what) {
  if (!good) Fail(std::string(what) + ": " + std::strerror(errno));
}

// Both ends of a connection.
std::pair<int, int> Connected() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const plain = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof address;
  Check(bind(listener, plain, size) == 0 && listen(listener, 1) == 0, "listen");
  Check(getsockname(listener, plain, &size) == 0, "getsockname");
  const int near = socket(AF_INET, SOCK_STREAM, 0);
  Check(connect(near, plain, size) == 0, "connect");
  const int far = accept(listener, nullptr, nullptr);
  Check(far >= 0, "accept");
  close(listener);
  const int on = 1;
  for (const int end : {near, far}) setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return {near, far};
}

// False when the other end is closed.
bool Receive(int from, Buffer* buffer) { return recv(from, buffer->data(), kBytes, MSG_WAITALL) == kBytes; }

void Send(int to, const Buffer& buffer) {
  Check(send(to, buffer.data(), kBytes, MSG_NOSIGNAL) == static_cast<ssize_t>(kBytes), "send");
}

void Bind(const std::string& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::istringstream parts(cpus);
  for (std::string cpu; std::getline(parts, cpu, ',');) CPU_SET(static_cast<std::size_t>(std::atoi(cpu.c_str())), &set);
  if (pthread_setaffinity_np(pthread_self(), sizeof set, &set) != 0) Fail("cannot run on the CPUs " + cpus);
}

std::string Flag(int argc, char** argv, const std::string& name) {
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    if (text.rfind("--" + name + "=", 0) == 0) return text.substr(name.size() + 3);
  }
  Fail("--" + name + "=... is missing");
}

std::vector<double> Measure(int server, std::size_t rounds) {
  Buffer buffer{};
  std::vector<double> took_us(rounds);
  for (double& took : took_us) {
    const auto start = steady_clock::now();
    Send(server, buffer);
    if (!Receive(server, &buffer)) Fail("the chain broke");
    took = std::chrono::duration<double, std::micro>(steady_clock::now() - start).count();
  }
  std::sort(took_us.begin(), took_us.end());
  return took_us;
}

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): a program that measures may end so
int main(int argc, char** argv) {
  const std::string servers = Flag(argc, argv, "servers");
  const int rounds = std::atoi(Flag(argc, argv, "rounds").c_str());
  if (rounds <= 0) Fail("--rounds must be a positive number");
  const auto [client, front] = Connected();
  const auto [upstream, end] = Connected();
  std::thread proxy([&servers, front = front, upstream = upstream] {
    Bind(servers);
    for (Buffer buffer; Receive(front, &buffer);) {
      Send(upstream, buffer);
      if (!Receive(upstream, &buffer)) Fail("the chain broke");
      Send(front, buffer);
    }
    close(upstream);
  });
  std::thread replica([&servers, end = end] {
    Bind(servers);
    for (Buffer buffer; Receive(end, &buffer);) Send(end, buffer);
  });
  Bind(Flag(argc, argv, "client"));
  const std::vector<double> took_us = Measure(client, static_cast<std::size_t>(rounds));
  close(client);
  proxy.join();
  replica.join();
  std::printf("{\"p50_us\": %.1f, \"p99_us\": %.1f}\n", took_us[took_us.size() / 2],
              took_us[took_us.size() * 99 / 100]);
  return 0;
}
