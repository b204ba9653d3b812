// The messages of Pull in proto/broker.proto, as a replica reads and writes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "broker/held.h"
#include "common/status.h"
#include "rpc/message.h"
#include "rpc/server.h"

namespace mesh::broker {

// ---------------------------------------------------------------- what a broker says

struct Welcome {
  double lease_s = 0.0;  // 0: not said
  std::vector<ItemKey> lost;
  std::size_t max_result_bytes = 0;  // 0: not said
};

enum class Body : std::uint8_t { kNothing, kInfer, kHttp };

struct Work {
  ItemKey key;
  Body body = Body::kNothing;
  rpc::Slice infer;        // inference.ModelInferRequest
  rpc::Metadata metadata;  // of gRPC, or headers
  double left_s = 0.0;     // until its deadline; 0: none
  bool wants_parts = false;
  std::size_t bytes = 0;  // of the message
};

struct Stop {
  ItemKey key;
  std::string reason;
};

struct Stored {
  ItemKey key;
};

// monostate: of a kind that is not known here, and not for us then.
using Reply = std::variant<std::monostate, Welcome, Work, Stop, Stored>;

// A PullReply and those that it carries, in their order. DATA_LOSS when the bytes are none.
Result<std::vector<Reply>> ParseReplies(const rpc::Slice& bytes);

// ---------------------------------------------------------------- what a replica says: encoded PullRequests

struct Hello {
  std::string replica;  // id of its endpoint
  std::string process;  // new for each start of its process
  std::string deployment;
  std::int64_t generation = 0;
  std::int64_t revision = 0;
};

rpc::Message EncodeHello(const Hello& hello, const std::vector<ItemKey>& held);
rpc::Message EncodeCredits(int more);
rpc::Message EncodeProgress(const ItemKey& key, const std::vector<ResultPart>& parts);

// What came of a run.
struct Outcome {
  enum class Kind : std::uint8_t {
    kInfer,     // one answer
    kInfers,    // those of a decoupled model
    kFailure,   // an error that another attempt would not change
    kReturned,  // the item may run again: elsewhere, or later
  };
  Kind kind = Kind::kFailure;
  std::vector<rpc::Message> answers;  // inference.ModelInferResponse
  Status failure;
  bool untouched = false;   // with kReturned: nothing of it has run
  bool queue_full = false;  // with `untouched`: the model's own queue had no place for it
};

// The bytes of the answers are not copied.
rpc::Message EncodeDone(const ItemKey& key, const Outcome& outcome);

// The same in fewer messages, each of `most_bytes` or of one: every message costs both sides a turn.
std::vector<rpc::Message> Together(std::vector<rpc::Message> said, std::size_t most_bytes);

// The `infer_response` of an inference.ModelStreamInferResponse; nothing where it has none. DATA_LOSS for other bytes.
Result<rpc::Slice> StreamedAnswer(const rpc::Slice& message);

}  // namespace mesh::broker
