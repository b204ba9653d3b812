#include "proxy/passing_on.h"

#include <algorithm>
#include <chrono>
#include <string_view>
#include <vector>

namespace mesh::proxy {
namespace {

using std::chrono::milliseconds;

std::string Joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "nothing" : text;
}

// Whether our own client may send it: values of other than printable ASCII need a key that ends with -bin.
bool MayBeSent(const std::string& key, const std::string& value) {
  if (key.size() >= 4 && key.compare(key.size() - 4, 4, "-bin") == 0) return true;
  return std::all_of(value.begin(), value.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

// What the request wants, and where it looks for it.
std::string Asked(const RequestHead& head) {
  if (head.model.empty()) return "any model";
  return "model " + head.model + (head.version.empty() ? "" : " in version " + head.version);
}

std::string Where(const std::string& application, const RequestHead& head) {
  return head.deployment.empty() ? application : application + '/' + head.deployment;
}

}  // namespace

rpc::CallOptions PassOn(const rpc::ServerCall& call, rpc::EventLoop::TimePoint now) {
  rpc::CallOptions options;
  options.metadata.reserve(call.metadata().size());
  for (const auto& entry : call.metadata()) {
    if (entry.first != "user-agent" && MayBeSent(entry.first, entry.second)) options.metadata.push_back(entry);
  }
  if (const auto deadline = call.deadline()) {
    options.timeout = std::max(std::chrono::ceil<milliseconds>(*deadline - now), milliseconds(1));
  }
  return options;
}

Status ForClient(const Status& status, const Peer& peer, int attempt) {
  const bool cancelled = status.code() == Code::kCancelled;
  std::string text = (cancelled ? "the endpoint cancelled the request: " : "") + status.message();
  const std::string name = "(" + peer.Name() + ", attempt " + std::to_string(attempt) + ")";
  if (attempt == 1 && rpc::WasNotProcessed(status)) {  // which stays the end: it tells the client's client, too
    text.insert(text.size() - std::string_view(rpc::kNotProcessed).size(), name + ' ');
  } else {
    text += ' ' + name;
  }
  return {cancelled ? Code::kUnavailable : status.code(), text};
}

Status BudgetUsedUp(const Status& status) {
  return {status.code(), status.message() + "; not tried again: too many requests fail, the retry budget is used up"};
}

Status NotOnItsSides(const Router& router, const std::string& application, const RequestHead& head) {
  std::vector<std::string> sides;
  for (const auto& [split, side] : head.sides) sides.emplace_back(side).append(" of ").append(split);
  return {Code::kUnavailable, "no endpoint of " + Where(application, head) + " became ready in time for " +
                                  Asked(head) + " on the request's side of its traffic split (" + Joined(sides) +
                                  "); what offers it gets none of such requests: " + Joined(router.Offering(head))};
}

Status UnknownModel(const Router& router, const std::string& application, const RequestHead& head) {
  return {Code::kNotFound, "no endpoint of " + Where(application, head) + " offers " + Asked(head) +
                               " (offered: " + Joined(router.Offered(head.deployment)) + ")"};
}

}  // namespace mesh::proxy
