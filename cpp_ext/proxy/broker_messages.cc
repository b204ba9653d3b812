#include "proxy/broker_messages.h"

#include <algorithm>
#include <array>
#include <exception>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <string_view>
#include <utility>

#include "rpc/fields.h"
#include "rpc/wire.h"

namespace mesh::proxy {
namespace {

using protozero::pbf_reader;
using protozero::pbf_wire_type;
using protozero::pbf_writer;
using protozero::tag_and_type;

constexpr auto kBytes = pbf_wire_type::length_delimited;
constexpr auto kVarint = pbf_wire_type::varint;
constexpr std::size_t kMostMetadata = 60;  // a broker takes 64, of which it may add some
// What authenticates a client or belongs to its connection: an item stays on disk, and replicas have no use for it.
// Names of the protocol (rpc::IsReservedHeader) come beside these.
constexpr std::array<std::string_view, 8> kNotKept = {
    "authorization", "proxy-authorization", "cookie",     "x-api-key",
    "api-key",       "x-auth-token",        "user-agent", "accept-encoding"};
constexpr char kGone[] = "whoever waited for it has gone";  // serving/broker/clients.py

// serving/broker/items.py
enum class State : std::uint8_t { kFailed = 4, kDead = 5, kCancelled = 6, kExpired = 7 };

struct Ended {
  std::string id;
  std::string deployment;
  std::string reason;
  std::int32_t state = 0;
  std::int32_t attempts = 0;
  bool has_answer = false;
  Status failure;
  std::vector<rpc::Slice> answers;
};

rpc::Slice Within(const rpc::Slice& of, const protozero::data_view& view) {
  return {of.owner(), view.data(), view.size()};
}

Status ReadFailure(pbf_reader reader) {
  auto code = Code::kUnknown;
  std::string message;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, kVarint): {
        const std::int32_t said = reader.get_int32();
        if (said > 0 && said <= static_cast<std::int32_t>(Code::kUnauthenticated)) code = static_cast<Code>(said);
        break;
      }
      case tag_and_type(2, kBytes): message = reader.get_string(); break;
      default: reader.skip();
    }
  }
  return {code, message};
}

void ReadResult(pbf_reader reader, const rpc::Slice& bytes, Ended* item) {
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, kBytes):
        item->answers.assign(1, Within(bytes, reader.get_view()));
        item->has_answer = true;
        break;
      case tag_and_type(3, kBytes): item->failure = ReadFailure(reader.get_message()); break;
      case tag_and_type(4, kBytes): {
        pbf_reader answers = reader.get_message();
        while (answers.next(1, kBytes)) item->answers.push_back(Within(bytes, answers.get_view()));
        item->has_answer = true;
        break;
      }
      default: reader.skip();
    }
  }
}

Ended ReadItem(pbf_reader reader, const rpc::Slice& bytes) {
  Ended item;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(2, kBytes): item.id = reader.get_string(); break;
      case tag_and_type(3, kVarint): item.state = reader.get_int32(); break;
      case tag_and_type(4, kBytes): item.deployment = reader.get_string(); break;
      case tag_and_type(8, kVarint): item.attempts = reader.get_int32(); break;
      case tag_and_type(10, kBytes): item.reason = reader.get_string(); break;
      case tag_and_type(15, kBytes): ReadResult(reader.get_message(), bytes, &item); break;
      default: reader.skip();
    }
  }
  return item;
}

Taken ReadTaken(pbf_reader reader) {
  Taken taken;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, kBytes): taken.ticket = reader.get_string(); break;
      case tag_and_type(2, kVarint): taken.repeated = reader.get_bool(); break;
      default: reader.skip();
    }
  }
  return taken;
}

// As serving/sdk/item_results.py and serving/gateway/queued/dispatch.py have it.
ItemEnd Meaning(Ended item) {
  const std::string about = "the item " + item.id + " of " + item.deployment;
  const std::string reason = item.reason.empty() ? "" : ": " + item.reason;
  switch (static_cast<State>(item.state)) {
    case State::kCancelled:
      return {{item.reason == kGone ? Code::kUnavailable : Code::kCancelled, about + " was cancelled" + reason}, {}};
    case State::kExpired: return {{Code::kDeadlineExceeded, about + " did not end before its deadline" + reason}, {}};
    case State::kDead:
      return {
          {Code::kUnavailable, about + " was given up after " + std::to_string(item.attempts) + " attempts" + reason},
          {}};
    case State::kFailed:
      if (item.failure.ok()) return {{Code::kFailedPrecondition, about + " failed" + reason}, {}};
      return {std::move(item.failure), {}};
  }
  if (!item.has_answer) return {{Code::kDataLoss, about + " has ended without a result"}, {}};
  return {{}, std::move(item.answers)};
}

bool IsText(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

bool IsKept(const std::string& name, const std::string& value) {
  if (rpc::IsReservedHeader(name) || rpc::IsBinaryKey(name)) return false;
  return std::find(kNotKept.begin(), kNotKept.end(), name) == kNotKept.end() && IsText(value);
}

}  // namespace

rpc::Message EncodeSubmission(const Submission& submission) {
  std::string entries;
  pbf_writer request(entries);
  std::size_t count = 0;
  for (const auto& [name, value] : submission.metadata) {
    if (!IsKept(name, value) || ++count > kMostMetadata) continue;
    pbf_writer entry(request, 3);
    entry.add_string(1, name);
    entry.add_string(2, value);
  }
  rpc::Message body = rpc::Field(1, submission.infer);
  body.Append(std::move(entries));
  std::string head;
  pbf_writer out(head);
  out.add_string(1, submission.deployment);
  out.add_string(4, submission.key);
  if (submission.deadline_s > 0) out.add_double(6, submission.deadline_s);
  out.add_double(10, submission.result_ttl_s);
  if (submission.new_key) out.add_bool(11, true);
  rpc::Message message(std::move(head));
  rpc::Append(rpc::Field(2, body), &message);
  return message;
}

rpc::Message EncodeFollow(const std::string& ticket) {
  std::string encoded;
  pbf_writer out(encoded);
  out.add_string(1, ticket);
  out.add_bool(3, true);
  return rpc::Message(std::move(encoded));
}

Result<Followed> ParseFollowed(const rpc::Slice& bytes) {
  try {
    Followed found;
    pbf_reader reader(bytes.data(), bytes.size());
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case tag_and_type(2, kBytes): found = Meaning(ReadItem(reader.get_message(), bytes)); break;
        case tag_and_type(3, kBytes): found = ReadTaken(reader.get_message()); break;
        default: reader.skip();
      }
    }
    return found;
  } catch (const std::exception& error) {
    return Status(Code::kDataLoss, std::string("the broker's message is no FollowReply: ") + error.what());
  }
}

}  // namespace mesh::proxy
