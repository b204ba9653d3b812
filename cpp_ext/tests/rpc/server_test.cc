#include "rpc/server.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace mesh::rpc {
namespace {

TEST(Server, DrainAndStopOnTwoThreadsBothReturn) {
  for (int round = 0; round < 200; ++round) {
    ServerOptions options;
    options.event_loops = 2;
    Server server(options);
    ASSERT_TRUE(server.Start().ok());
    std::thread drain([&] { server.Drain(std::chrono::minutes(1)); });
    if (round % 2 == 0) std::this_thread::yield();
    server.Stop();
    drain.join();
  }
}

}  // namespace
}  // namespace mesh::rpc
