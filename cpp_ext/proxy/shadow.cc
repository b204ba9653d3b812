#include "proxy/shadow.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "proxy/passing_on.h"

namespace mesh::proxy {
namespace {

constexpr double kRestS = 1.0;  // of an endpoint that the last copy did not reach, while there are others

rpc::CallOptions OptionsOf(const Core& core, const rpc::ServerCall& call) {
  rpc::CallOptions options = PassOn(call, core.loop->now());
  const std::chrono::milliseconds longest = kLongestCopy;
  options.timeout = std::min(options.timeout.value_or(longest), longest);
  options.metadata.emplace_back(kShadowKey, "1");
  return options;
}

}  // namespace

void SendCopy(Core& core, const RequestHead& head, const rpc::ServerCall& call, const rpc::Slice& request) {
  ProxyMetrics::Shadow& counts = core.metrics.ShadowOf(head.shadow);
  const std::size_t bytes = request.size();
  if (core.copies.running >= kMaxCopies || core.copies.bytes + bytes > kMaxCopyBytes) return counts.full.Add();
  std::shared_ptr<Peer> peer = core.router->ChooseShadow(head.shadow, head, core.now());
  if (peer == nullptr) return counts.nobody.Add();
  counts.sent.Add();
  ++core.copies.running;
  core.copies.bytes += bytes;
  ++peer->copies;
  rpc::StreamCallbacks callbacks;
  callbacks.on_message = [](const rpc::Slice& /*answer*/) {};
  callbacks.on_done = [&core, &failed = counts.failed, peer, bytes](const Status& status,
                                                                    const rpc::Metadata& /*trailers*/) {
    --core.copies.running;
    core.copies.bytes -= bytes;
    --peer->copies;
    if (status.ok()) return;
    failed.Add();
    if (status.code() == Code::kUnavailable) peer->copies_rest_until = core.now() + kRestS;
  };
  peer->channel->Ask(std::string(call.path()), WithName(head, request), OptionsOf(core, call), std::move(callbacks));
}

}  // namespace mesh::proxy
