#include "proxy/passing_on.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace mesh::proxy {
namespace {

using std::chrono::milliseconds;

std::string Joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "nothing" : text;
}

}  // namespace

rpc::CallOptions PassOn(const rpc::ServerCall& call, rpc::EventLoop::TimePoint now) {
  rpc::CallOptions options;
  options.metadata.reserve(call.metadata().size());
  for (const auto& entry : call.metadata()) {
    if (entry.first != "user-agent") options.metadata.push_back(entry);  // each hop says its own
  }
  if (const auto deadline = call.deadline()) {
    options.timeout = std::max(std::chrono::ceil<milliseconds>(*deadline - now), milliseconds(1));
  }
  return options;
}

Status NameEndpoint(const Status& status, const Peer& peer, int attempt) {
  return {status.code(), status.message() + " (" + peer.Name() + ", attempt " + std::to_string(attempt) + ")"};
}

Status UnknownModel(const Router& router, const std::string& application, const RequestHead& head) {
  const std::vector<std::string> offered = router.Offered(head.deployment);
  std::string asked = "model " + head.model;
  if (!head.version.empty()) asked += " in version " + head.version;
  std::string where = application;
  if (!head.deployment.empty()) where += "/" + head.deployment;
  return {Code::kNotFound, "no endpoint of " + where + " offers " + asked + " (offered: " + Joined(offered) + ")"};
}

}  // namespace mesh::proxy
