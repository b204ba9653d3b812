#include "registry/etcd_client.h"

#include <algorithm>
#include <utility>

#include "common/file.h"

namespace mesh::registry {
namespace {

constexpr std::int64_t kPageKeys = 1000;

// Whether another member may do better: this one is away, slow, without a leader, or was cut off in the middle.
bool IsEndpointFault(const Status& status) {
  return status.code() == Code::kUnavailable || status.code() == Code::kDeadlineExceeded ||
         status.code() == Code::kInternal || status.code() == Code::kUnknown;
}

}  // namespace

bool IsTokenRejected(const Status& status) {
  return status.code() == Code::kUnauthenticated || status.message().find("invalid auth token") != std::string::npos ||
         status.message().find("revision of auth store is old") != std::string::npos;
}

EtcdClient::EtcdClient(Options options) : options_(std::move(options)) {}

EtcdClient::~EtcdClient() { Close(); }

void EtcdClient::Close() {
  std::shared_ptr<rpc::Channel> channel;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    channel = channel_;  // kept: the thread that waits for a call of it still uses it
  }
  if (channel != nullptr) channel->Close();
}

std::shared_ptr<rpc::Channel> EtcdClient::CurrentChannel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_ || options_.endpoints.empty()) return nullptr;
  if (channel_ == nullptr) {
    rpc::ChannelOptions options;
    options.tls = options_.tls;
    options.connect_timeout = options_.request_timeout;
    options.keepalive_interval = std::chrono::milliseconds(10000);
    options.keepalive_timeout = std::chrono::milliseconds(3000);
    channel_ = rpc::Channel::Create(options_.endpoints[endpoint_], options);
  }
  return channel_;
}

void EtcdClient::Rotate(const std::shared_ptr<rpc::Channel>& failed) {
  std::shared_ptr<rpc::Channel> old;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closed_ || channel_ != failed || options_.endpoints.size() < 2) return;
    endpoint_ = (endpoint_ + 1) % options_.endpoints.size();
    old = std::exchange(channel_, nullptr);
  }
  old->Close();
}

void EtcdClient::DropToken() {
  const std::lock_guard<std::mutex> lock(mutex_);
  token_.clear();
}

Result<std::string> EtcdClient::Authenticate(const std::shared_ptr<rpc::Channel>& channel) {
  Result<std::string> password = ReadFile(options_.password_file);
  if (!password.ok()) {
    return Status(Code::kUnauthenticated, "etcd's password: " + password.status().message());
  }
  std::string text = std::move(password).value();
  text.erase(std::find_if(text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }), text.end());
  rpc::CallOptions call;
  call.timeout = options_.request_timeout;
  Result<rpc::Slice> answer = channel->CallAndWait(
      etcd::kAuthenticate, rpc::Message(etcd::EncodeAuthenticate(options_.user, text)), std::move(call));
  if (!answer.ok()) return answer.status();
  return etcd::DecodeToken(answer.value().view());
}

Result<rpc::CallOptions> EtcdClient::WithToken(const std::shared_ptr<rpc::Channel>& channel) {
  rpc::CallOptions call;
  if (options_.user.empty()) return call;
  std::string token;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    token = token_;
  }
  if (token.empty()) {
    Result<std::string> fresh = Authenticate(channel);
    if (!fresh.ok()) return fresh.status();
    token = fresh.value();
    const std::lock_guard<std::mutex> lock(mutex_);
    token_ = token;
  }
  call.metadata.emplace_back("token", token);
  return call;
}

Result<rpc::Slice> EtcdClient::CallEndpoint(const std::shared_ptr<rpc::Channel>& channel, const char* path,
                                            const std::string& request) {
  Status last;
  for (int attempt = 0; attempt < 2; ++attempt) {
    Result<rpc::CallOptions> call = WithToken(channel);
    if (!call.ok()) return call.status();
    call.value().timeout = options_.request_timeout;
    Result<rpc::Slice> answer = channel->CallAndWait(path, rpc::Message(request), call.value());
    if (answer.ok() || options_.user.empty() || !IsTokenRejected(answer.status())) return answer;
    last = answer.status();
    DropToken();
  }
  return last;
}

Result<rpc::Slice> EtcdClient::Call(const char* path, const std::string& request) {
  std::string reasons;
  for (std::size_t attempt = 0; attempt < options_.endpoints.size(); ++attempt) {
    const std::shared_ptr<rpc::Channel> channel = CurrentChannel();
    if (channel == nullptr) return Status(Code::kCancelled, "the etcd client is closed");
    Result<rpc::Slice> answer = CallEndpoint(channel, path, request);
    if (answer.ok() || !IsEndpointFault(answer.status())) return answer;
    reasons += (reasons.empty() ? "" : "; ") + answer.status().ToString();
    Rotate(channel);
  }
  if (options_.endpoints.empty()) return Status(Code::kInvalidArgument, "no etcd endpoint is configured");
  return Status(Code::kUnavailable, "etcd does not answer: " + reasons);
}

Result<std::shared_ptr<rpc::ClientCall>> EtcdClient::Stream(const char* path, rpc::StreamCallbacks callbacks) {
  const std::shared_ptr<rpc::Channel> channel = CurrentChannel();
  if (channel == nullptr) return Status(Code::kCancelled, "the etcd client is closed or has no endpoint");
  Result<rpc::CallOptions> call = WithToken(channel);
  if (!call.ok()) {
    if (IsEndpointFault(call.status())) Rotate(channel);
    return call.status();
  }
  // A member cut off from the others then ends the stream instead of leaving it silent.
  call.value().metadata.emplace_back("hasleader", "true");
  return channel->Stream(path, std::move(call).value(), std::move(callbacks));
}

void EtcdClient::StreamFailed(const Status& status) {
  if (IsTokenRejected(status)) DropToken();
  std::shared_ptr<rpc::Channel> channel;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    channel = channel_;
  }
  if (channel != nullptr && IsEndpointFault(status)) Rotate(channel);
}

Result<etcd::RangeAnswer> EtcdClient::Get(const std::string& key) {
  Result<rpc::Slice> answer = Call(etcd::kRange, etcd::EncodeGet(key));
  if (!answer.ok()) return answer.status();
  return etcd::DecodeRange(answer.value().view());
}

Result<etcd::RangeAnswer> EtcdClient::List(const std::string& prefix) {
  const std::string end = etcd::PrefixEnd(prefix);
  std::string from = prefix;
  etcd::RangeAnswer all;
  for (;;) {
    // Every page at the revision of the first one, so that they are one picture.
    Result<rpc::Slice> bytes = Call(etcd::kRange, etcd::EncodeList(from, end, kPageKeys, all.header.revision));
    if (!bytes.ok()) return bytes.status();
    Result<etcd::RangeAnswer> page = etcd::DecodeRange(bytes.value().view());
    if (!page.ok()) return page.status();
    if (all.header.revision == 0) all.header = page.value().header;
    for (etcd::KeyValue& kv : page.value().kvs) all.kvs.push_back(std::move(kv));
    if (!page.value().more || page.value().kvs.empty()) return all;
    from = all.kvs.back().key + '\0';
  }
}

Result<etcd::LeaseAnswer> EtcdClient::Grant(int ttl_s) {
  Result<rpc::Slice> answer = Call(etcd::kLeaseGrant, etcd::EncodeLeaseGrant(ttl_s));
  if (!answer.ok()) return answer.status();
  Result<etcd::LeaseAnswer> lease = etcd::DecodeLeaseGrant(answer.value().view());
  if (lease.ok() && (!lease.value().error.empty() || lease.value().id == 0)) {
    return Status(Code::kFailedPrecondition, "etcd grants no lease: " + lease.value().error);
  }
  return lease;
}

Status EtcdClient::Revoke(std::int64_t lease) {
  const Status revoked = Call(etcd::kLeaseRevoke, etcd::EncodeLeaseId(lease)).status();
  return revoked.code() == Code::kNotFound ? Status() : revoked;  // it has run out already
}

Result<bool> EtcdClient::PutIf(const std::string& key, const std::string& value, std::int64_t lease,
                               std::int64_t mod_revision) {
  Result<rpc::Slice> answer = Call(etcd::kTxn, etcd::EncodePutIf(key, value, lease, mod_revision));
  if (!answer.ok()) return answer.status();
  Result<etcd::TxnAnswer> outcome = etcd::DecodeTxn(answer.value().view());
  if (!outcome.ok()) return outcome.status();
  return outcome.value().succeeded;
}

}  // namespace mesh::registry
