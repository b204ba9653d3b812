#include <unistd.h>

#include <utility>

#include "rpc/server_connection.h"
#include "rpc/server_context.h"

namespace mesh::rpc {
namespace {

constexpr std::size_t kReadBytes = 256UL * 1024;

}  // namespace

ServerLoop::ServerLoop(std::shared_ptr<ServerContext> context, std::shared_ptr<EventLoop> loop)
    : context_(std::move(context)), loop_(std::move(loop)), read_buffer_(kReadBytes), inflate_turns_(loop_.get()) {}

ServerLoop::~ServerLoop() = default;

void ServerLoop::Adopt(int fd) {
  if (draining_) {
    context_->connections.fetch_sub(1, std::memory_order_relaxed);
    close(fd);
    return;
  }
  ServedConnection* connection = std::make_unique<Connection>(this, fd).release();  // in connections_ until Bury
  connections_.insert(connection);
  counters_.connections_total.Add(1);
  counters_.connections_open.Add(1);
  connection->Start();
}

void ServerLoop::Replace(ServedConnection* connection, std::unique_ptr<ServedConnection> next) {
  connections_.erase(connection);
  context_->connections.fetch_add(1, std::memory_order_relaxed);  // until the first of the two is freed
  FreeLater(connection);
  ServedConnection* started = next.release();
  connections_.insert(started);
  if (draining_) started->BeginDrain();  // before it answers what came already
  started->Start();
}

void ServerLoop::Bury(ServedConnection* connection) {
  connections_.erase(connection);
  counters_.connections_open.Subtract(1);
  FreeLater(connection);
  CheckDrained();
}

void ServerLoop::FreeLater(ServedConnection* connection) {
  if (buried_.empty()) loop_->RunAtEnd(&grave_digger_);
  buried_.emplace_back(connection);
}

void ServerLoop::GraveDigger::RunInLoop() {
  std::vector<std::unique_ptr<ServedConnection>> dead;
  dead.swap(owner_->buried_);
  const std::size_t count = dead.size();
  dead.clear();
  owner_->context_->connections.fetch_sub(count, std::memory_order_relaxed);
}

void ServerLoop::ConnectionQuiet() { CheckDrained(); }

void ServerLoop::BeginDrain(std::function<void()> drained) {
  draining_ = true;
  drained_ = std::move(drained);
  const std::vector<ServedConnection*> all(connections_.begin(), connections_.end());
  for (ServedConnection* connection : all) connection->BeginDrain();
  CheckDrained();
}

void ServerLoop::CheckDrained() {
  if (!drained_) return;
  for (const ServedConnection* connection : connections_) {
    if (connection->busy()) return;
  }
  std::exchange(drained_, nullptr)();
}

void ServerLoop::AbortAll() {
  draining_ = true;
  const std::vector<ServedConnection*> all(connections_.begin(), connections_.end());
  for (ServedConnection* connection : all) connection->Abort();
}

}  // namespace mesh::rpc
