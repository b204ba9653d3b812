// What a proxy says to brokers and hears from them: Call and Follow in proto/broker.proto.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/status.h"
#include "rpc/message.h"
#include "rpc/server.h"

namespace mesh::proxy {

struct Submission {
  std::string deployment;
  rpc::Message infer;       // inference.ModelInferRequest
  rpc::Metadata metadata;   // of the client's call
  std::string key;          // by which a broker knows that it has it already
  bool new_key = false;     // nobody was asked with it: no journal is looked into for it
  double deadline_s = 0.0;  // 0: none
  double result_ttl_s = 0.0;
};

// A SubmitRequest. The bytes of the request are not copied. Metadata that authenticates the client or belongs to its
// connection is left away, as is what is no text ("-bin"), or too much.
rpc::Message EncodeSubmission(const Submission& submission);
// A FollowRequest of whoever alone wants the item.
rpc::Message EncodeFollow(const std::string& ticket);

// The item is on disk.
struct Taken {
  std::string ticket;
  bool repeated = false;  // the key was known: this is the first one's ticket
};

// A piece of the result; the result has it again.
struct PartOfResult {};

// The item at its end: the answers of its model, or why there are none.
struct ItemEnd {
  Status failure;
  std::vector<rpc::Slice> answers;  // inference.ModelInferResponse
};

using Followed = std::variant<PartOfResult, Taken, ItemEnd>;

// A FollowReply. DATA_LOSS for other bytes.
Result<Followed> ParseFollowed(const rpc::Slice& bytes);

}  // namespace mesh::proxy
