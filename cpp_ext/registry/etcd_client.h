// Calls to etcd that wait for their answer: the next endpoint when one does not answer, a new token when the old one is
// not accepted any more. For threads that may block; one object per thread that matters, since a slow call is slow for
// everybody who shares it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "common/status.h"
#include "registry/etcd_wire.h"
#include "registry/options.h"
#include "rpc/client.h"

namespace mesh::registry {

class EtcdClient {
 public:
  explicit EtcdClient(Options options);
  ~EtcdClient();
  EtcdClient(const EtcdClient&) = delete;
  EtcdClient& operator=(const EtcdClient&) = delete;

  // UNAVAILABLE when no endpoint answered; it names each with its reason. The request may be sent more than once.
  Result<rpc::Slice> Call(const char* path, const std::string& request);
  // A streaming call to the endpoint that answered last. The caller reports a failed stream with StreamFailed, so that
  // the next one goes elsewhere or with another token.
  Result<std::shared_ptr<rpc::ClientCall>> Stream(const char* path, rpc::StreamCallbacks callbacks);
  void StreamFailed(const Status& status);
  // Ends running calls with CANCELLED and fails later ones. From any thread, repeatable.
  void Close();

  Result<etcd::RangeAnswer> Get(const std::string& key);
  // All keys of a prefix at one revision, in order.
  Result<etcd::RangeAnswer> List(const std::string& prefix);
  Result<etcd::LeaseAnswer> Grant(int ttl_s);
  Status Revoke(std::int64_t lease);
  // False: the key has another mod_revision by now.
  Result<bool> PutIf(const std::string& key, const std::string& value, std::int64_t lease, std::int64_t mod_revision);

 private:
  std::shared_ptr<rpc::Channel> CurrentChannel();
  void Rotate(const std::shared_ptr<rpc::Channel>& failed);
  Result<rpc::CallOptions> WithToken(const std::shared_ptr<rpc::Channel>& channel);
  Result<std::string> Authenticate(const std::shared_ptr<rpc::Channel>& channel);
  void DropToken();
  Result<rpc::Slice> CallEndpoint(const std::shared_ptr<rpc::Channel>& channel, const char* path,
                                  const std::string& request);

  const Options options_;
  std::mutex mutex_;
  std::size_t endpoint_ = 0;               // guarded by mutex_
  std::shared_ptr<rpc::Channel> channel_;  // guarded by mutex_; null until used
  std::string token_;                      // guarded by mutex_; empty: ask for one
  bool closed_ = false;                    // guarded by mutex_
};

// The token is unknown to the server or has run out.
bool IsTokenRejected(const Status& status);

}  // namespace mesh::registry
