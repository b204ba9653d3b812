// A gRPC proxy: `mesh_proxy CONFIG.json`, where the file holds a ProxyConfig in canonical JSON.
//
// Prints one line of JSON when it is ready: {"state":"ready","address":...,"metricsAddress":...}. SIGTERM and SIGINT
// drain it; a second one ends it at once. Exits with 0 after a drain, with 1 when it could not start, with 2 when its
// configuration is wrong.
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

#include "common/file.h"
#include "common/json.h"
#include "proxy/proxy.h"

namespace {

using mesh::Result;
using mesh::proxy::Proxy;
using mesh::proxy::ProxyConfig;

Result<ProxyConfig> ReadConfig(const std::string& path) {
  const Result<std::string> text = mesh::ReadFile(path);
  if (!text.ok()) return text.status();
  return mesh::proxy::ParseProxyConfig(text.value());
}

int Complain(const mesh::Status& status, int exit_status) {
  std::fprintf(stderr, "mesh_proxy: %s\n", status.message().c_str());
  return exit_status;
}

void Report(const Proxy& proxy) {
  const std::string line =
      mesh::json::Dump({{"state", "ready"}, {"address", proxy.address()}, {"metricsAddress", proxy.metrics_address()}});
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || argv[1][0] == '-') {
    std::fprintf(stderr, "usage: mesh_proxy CONFIG.json (ProxyConfig of proto/records.proto, in canonical JSON)\n");
    return 2;
  }
  sigset_t signals;
  sigemptyset(&signals);
  for (const int wanted : {SIGTERM, SIGINT}) sigaddset(&signals, wanted);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread is made: they inherit it
  signal(SIGPIPE, SIG_IGN);
  const Result<ProxyConfig> config = ReadConfig(argv[1]);
  if (!config.ok()) return Complain(config.status(), 2);
  Proxy proxy(config.value());
  if (const mesh::Status started = proxy.Start(); !started.ok()) return Complain(started, 1);
  Report(proxy);
  int received = 0;
  sigwait(&signals, &received);
  std::thread([&proxy, &signals] {
    int second = 0;
    sigwait(&signals, &second);
    proxy.Stop();
  }).detach();
  proxy.Drain(config.value().drain_timeout);
  proxy.Stop();
  std::fflush(stdout);
  _exit(0);  // the thread above waits for a signal that need not come
}
