// etcd's messages (proto/etcd.proto) to and from bytes. Encoding is pure; decoding answers DATA_LOSS to rubbish.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace mesh::registry::etcd {

inline constexpr char kRange[] = "/etcdserverpb.KV/Range";
inline constexpr char kTxn[] = "/etcdserverpb.KV/Txn";
inline constexpr char kLeaseGrant[] = "/etcdserverpb.Lease/LeaseGrant";
inline constexpr char kLeaseRevoke[] = "/etcdserverpb.Lease/LeaseRevoke";
inline constexpr char kLeaseKeepAlive[] = "/etcdserverpb.Lease/LeaseKeepAlive";
inline constexpr char kWatch[] = "/etcdserverpb.Watch/Watch";
inline constexpr char kAuthenticate[] = "/etcdserverpb.Auth/Authenticate";

struct Header {
  std::uint64_t cluster_id = 0;
  std::int64_t revision = 0;
};

struct KeyValue {
  std::string key;
  std::string value;
  std::int64_t create_revision = 0;
  std::int64_t mod_revision = 0;
  std::int64_t version = 0;
  std::int64_t lease = 0;
};

struct RangeAnswer {
  Header header;
  std::vector<KeyValue> kvs;
  bool more = false;
};

struct LeaseAnswer {
  Header header;
  std::int64_t id = 0;
  std::int64_t ttl_s = 0;  // 0 in a keepalive's answer: the lease does not exist
  std::string error;
};

struct TxnAnswer {
  Header header;
  bool succeeded = false;
};

struct WatchEvent {
  bool deleted = false;
  KeyValue kv;  // of a deletion only the key and mod_revision
};

struct WatchAnswer {
  Header header;
  bool created = false;
  bool canceled = false;
  std::int64_t compact_revision = 0;  // not 0: the wanted revision is gone; list again
  std::string cancel_reason;
  std::vector<WatchEvent> events;
};

// The end of the range of all keys that begin with `prefix`.
std::string PrefixEnd(std::string prefix);

std::string EncodeGet(std::string_view key);
// At most `limit` keys from `from` (a key inside of the prefix) on, in order; `revision` 0 is the newest.
std::string EncodeList(std::string_view from, std::string_view end, std::int64_t limit, std::int64_t revision);
// Puts when the key's mod_revision is still that (0: when it is absent).
std::string EncodePutIf(std::string_view key, std::string_view value, std::int64_t lease, std::int64_t mod_revision);
std::string EncodeLeaseGrant(std::int64_t ttl_s);
std::string EncodeLeaseId(std::int64_t id);  // of a revoke and of a keepalive
std::string EncodeWatchCreate(std::string_view key, std::string_view end, std::int64_t start_revision);
std::string EncodeAuthenticate(std::string_view name, std::string_view password);

Result<RangeAnswer> DecodeRange(std::string_view bytes);
Result<TxnAnswer> DecodeTxn(std::string_view bytes);
Result<LeaseAnswer> DecodeLeaseGrant(std::string_view bytes);
Result<LeaseAnswer> DecodeLeaseKeepAlive(std::string_view bytes);
Result<WatchAnswer> DecodeWatch(std::string_view bytes);
Result<std::string> DecodeToken(std::string_view bytes);

}  // namespace mesh::registry::etcd
