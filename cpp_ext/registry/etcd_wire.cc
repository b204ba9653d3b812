#include "registry/etcd_wire.h"

#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>

#include "common/protobuf.h"

namespace mesh::registry::etcd {
namespace {

using protozero::pbf_reader;
using protozero::pbf_writer;

// protozero throws at malformed input; here is where that becomes a status.
template <typename Answer, typename Field>
Result<Answer> Decode(const char* name, std::string_view bytes, Field field) {
  Answer answer{};
  try {
    pbf_reader reader(bytes.data(), bytes.size());
    while (reader.next()) field(reader, &answer);
  } catch (const protozero::exception& error) {
    return Status(Code::kDataLoss, std::string("etcd's ") + name + " cannot be read: " + error.what());
  }
  return answer;
}

Header ReadHeader(pbf_reader reader) {
  Header header;
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: header.cluster_id = reader.get_uint64(); break;
      case 3: header.revision = reader.get_int64(); break;
      default: reader.skip();
    }
  }
  return header;
}

KeyValue ReadKeyValue(pbf_reader reader) {
  KeyValue kv;
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: kv.key = reader.get_bytes(); break;
      case 2: kv.create_revision = reader.get_int64(); break;
      case 3: kv.mod_revision = reader.get_int64(); break;
      case 4: kv.version = reader.get_int64(); break;
      case 5: kv.value = reader.get_bytes(); break;
      case 6: kv.lease = reader.get_int64(); break;
      default: reader.skip();
    }
  }
  return kv;
}

WatchEvent ReadEvent(pbf_reader reader) {
  WatchEvent event;
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: event.deleted = reader.get_enum() == 1; break;
      case 2: event.kv = ReadKeyValue(reader.get_message()); break;
      default: reader.skip();
    }
  }
  return event;
}

}  // namespace

std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty()) {
    auto& last = reinterpret_cast<unsigned char&>(prefix.back());
    if (last < 0xff) {
      ++last;
      return prefix;
    }
    prefix.pop_back();
  }
  prefix.push_back('\0');  // etcd: everything from the key on
  return prefix;
}

std::string EncodeGet(std::string_view key) {
  std::string out;
  pbf_writer(out).add_bytes(1, key.data(), key.size());
  return out;
}

std::string EncodeList(std::string_view from, std::string_view end, std::int64_t limit, std::int64_t revision) {
  std::string out;
  pbf_writer writer(out);
  writer.add_bytes(1, from.data(), from.size());
  writer.add_bytes(2, end.data(), end.size());
  writer.add_int64(3, limit);
  if (revision != 0) writer.add_int64(4, revision);
  return out;
}

std::string EncodePutIf(std::string_view key, std::string_view value, std::int64_t lease, std::int64_t mod_revision) {
  constexpr int kTargetMod = 2;
  std::string out;
  pbf_writer txn(out);
  {
    pbf_writer compare(txn, 1);
    compare.add_enum(2, kTargetMod);
    compare.add_bytes(3, key.data(), key.size());
    compare.add_int64(6, mod_revision);
  }
  {
    pbf_writer operation(txn, 2);
    pbf_writer put(operation, 2);
    put.add_bytes(1, key.data(), key.size());
    put.add_bytes(2, value.data(), value.size());
    put.add_int64(3, lease);
  }
  return out;
}

std::string EncodeLeaseGrant(std::int64_t ttl_s) {
  std::string out;
  pbf_writer(out).add_int64(1, ttl_s);
  return out;
}

std::string EncodeLeaseId(std::int64_t id) {
  std::string out;
  pbf_writer(out).add_int64(1, id);
  return out;
}

std::string EncodeWatchCreate(std::string_view key, std::string_view end, std::int64_t start_revision) {
  std::string out;
  pbf_writer request(out);
  pbf_writer create(request, 1);
  create.add_bytes(1, key.data(), key.size());
  create.add_bytes(2, end.data(), end.size());
  create.add_int64(3, start_revision);
  create.add_bool(4, true);
  return out;
}

std::string EncodeAuthenticate(std::string_view name, std::string_view password) {
  std::string out;
  pbf_writer writer(out);
  writer.add_string(1, name.data(), name.size());
  writer.add_string(2, password.data(), password.size());
  return out;
}

Result<RangeAnswer> DecodeRange(std::string_view bytes) {
  return Decode<RangeAnswer>("RangeResponse", bytes, [](pbf_reader& reader, RangeAnswer* answer) {
    switch (reader.tag()) {
      case 1: answer->header = ReadHeader(reader.get_message()); break;
      case 2: answer->kvs.push_back(ReadKeyValue(reader.get_message())); break;
      case 3: answer->more = ReadBool(&reader); break;
      default: reader.skip();
    }
  });
}

Result<TxnAnswer> DecodeTxn(std::string_view bytes) {
  return Decode<TxnAnswer>("TxnResponse", bytes, [](pbf_reader& reader, TxnAnswer* answer) {
    switch (reader.tag()) {
      case 1: answer->header = ReadHeader(reader.get_message()); break;
      case 2: answer->succeeded = ReadBool(&reader); break;
      default: reader.skip();
    }
  });
}

namespace {

Result<LeaseAnswer> DecodeLease(const char* name, std::string_view bytes) {
  return Decode<LeaseAnswer>(name, bytes, [](pbf_reader& reader, LeaseAnswer* answer) {
    switch (reader.tag()) {
      case 1: answer->header = ReadHeader(reader.get_message()); break;
      case 2: answer->id = reader.get_int64(); break;
      case 3: answer->ttl_s = reader.get_int64(); break;
      case 4: answer->error = reader.get_string(); break;
      default: reader.skip();
    }
  });
}

}  // namespace

Result<LeaseAnswer> DecodeLeaseGrant(std::string_view bytes) { return DecodeLease("LeaseGrantResponse", bytes); }

Result<LeaseAnswer> DecodeLeaseKeepAlive(std::string_view bytes) {
  return DecodeLease("LeaseKeepAliveResponse", bytes);
}

Result<WatchAnswer> DecodeWatch(std::string_view bytes) {
  return Decode<WatchAnswer>("WatchResponse", bytes, [](pbf_reader& reader, WatchAnswer* answer) {
    switch (reader.tag()) {
      case 1: answer->header = ReadHeader(reader.get_message()); break;
      case 3: answer->created = ReadBool(&reader); break;
      case 4: answer->canceled = ReadBool(&reader); break;
      case 5: answer->compact_revision = reader.get_int64(); break;
      case 6: answer->cancel_reason = reader.get_string(); break;
      case 11: answer->events.push_back(ReadEvent(reader.get_message())); break;
      default: reader.skip();
    }
  });
}

Result<std::string> DecodeToken(std::string_view bytes) {
  return Decode<std::string>("AuthenticateResponse", bytes, [](pbf_reader& reader, std::string* token) {
    if (reader.tag() == 2) {
      *token = reader.get_string();
    } else {
      reader.skip();
    }
  });
}

}  // namespace mesh::registry::etcd
