#include "broker/messages.h"

#include <exception>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <utility>

#include "common/protobuf.h"
#include "rpc/fields.h"

namespace mesh::broker {
namespace {

using protozero::pbf_reader;
using protozero::pbf_wire_type;
using protozero::pbf_writer;
using protozero::tag_and_type;

constexpr std::uint32_t kMore = 15;
constexpr int kDepth = 2;  // of `more`: what is in those that it carries does not count
constexpr auto kBytes = pbf_wire_type::length_delimited;
constexpr auto kVarint = pbf_wire_type::varint;
constexpr auto kFixed64 = pbf_wire_type::fixed64;

// ---------------------------------------------------------------- reading

ItemKey ReadKey(pbf_reader reader) {
  ItemKey key;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, kBytes): key.item = reader.get_string(); break;
      case tag_and_type(2, kVarint): key.attempt = reader.get_int64(); break;
      default: reader.skip();
    }
  }
  return key;
}

Welcome ReadWelcome(pbf_reader reader) {
  Welcome welcome;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, kFixed64): welcome.lease_s = reader.get_double(); break;
      case tag_and_type(2, kBytes): welcome.lost.push_back(ReadKey(reader.get_message())); break;
      case tag_and_type(3, kVarint): welcome.max_result_bytes = reader.get_uint64(); break;
      default: reader.skip();
    }
  }
  return welcome;
}

std::pair<std::string, std::string> ReadEntry(pbf_reader reader) {
  std::pair<std::string, std::string> entry;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, kBytes): entry.first = reader.get_string(); break;
      case tag_and_type(2, kBytes): entry.second = reader.get_string(); break;
      default: reader.skip();
    }
  }
  return entry;
}

// Shares the memory of a message that is little more than the request; else the request would keep all of it.
rpc::Slice Part(const rpc::Slice& of, const protozero::data_view& view) {
  if (2 * view.size() < of.size()) return rpc::Slice::Own({view.data(), view.size()});
  return {of.owner(), view.data(), view.size()};
}

void ReadRequest(pbf_reader reader, const rpc::Slice& bytes, Work* work) {
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, kBytes):
        work->body = Body::kInfer;
        work->infer = Part(bytes, reader.get_view());
        break;
      case tag_and_type(2, kBytes):
        work->body = Body::kHttp;
        work->infer = {};
        reader.skip();
        break;
      case tag_and_type(3, kBytes): work->metadata.push_back(ReadEntry(reader.get_message())); break;
      default: reader.skip();
    }
  }
}

Work ReadWork(const protozero::data_view& view, const rpc::Slice& bytes) {
  Work work;
  work.key = ReadKey(pbf_reader(view));
  work.bytes = view.size();
  pbf_reader reader(view);
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(3, kBytes): ReadRequest(reader.get_message(), bytes, &work); break;
      case tag_and_type(4, kFixed64): work.left_s = reader.get_double(); break;
      case tag_and_type(6, kVarint): work.wants_parts = ReadBool(&reader); break;
      default: reader.skip();
    }
  }
  return work;
}

Stop ReadStop(const protozero::data_view& view) {
  Stop stop{ReadKey(pbf_reader(view)), {}};
  pbf_reader reader(view);
  while (reader.next(3, kBytes)) stop.reason = reader.get_string();
  return stop;
}

// The reply first, and what goes with it after that.
void ReadReply(pbf_reader reader, const rpc::Slice& bytes, int depth, std::vector<Reply>* replies) {
  const std::size_t own = replies->size();
  replies->emplace_back();
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, kBytes): (*replies)[own] = ReadWelcome(reader.get_message()); break;
      case tag_and_type(2, kBytes): (*replies)[own] = ReadWork(reader.get_view(), bytes); break;
      case tag_and_type(3, kBytes): (*replies)[own] = ReadStop(reader.get_view()); break;
      case tag_and_type(4, kBytes): (*replies)[own] = Stored{ReadKey(reader.get_message())}; break;
      case tag_and_type(kMore, kBytes):
        if (depth < kDepth) {
          ReadReply(reader.get_message(), bytes, depth + 1, replies);
        } else {
          reader.skip();
        }
        break;
      default: reader.skip();
    }
  }
}

// ---------------------------------------------------------------- writing

std::string EncodeKey(const ItemKey& key) {
  std::string encoded;
  pbf_writer out(encoded);
  out.add_string(1, key.item);
  out.add_int64(2, key.attempt);
  return encoded;
}

std::string EncodeFailure(const Status& status) {
  std::string encoded;
  pbf_writer out(encoded);
  out.add_int32(1, static_cast<std::int32_t>(status.code()));
  out.add_string(2, status.message());
  return encoded;
}

rpc::Message EncodeResult(const Outcome& outcome) {
  if (outcome.kind == Outcome::Kind::kFailure) return rpc::Field(3, EncodeFailure(outcome.failure));
  if (outcome.kind == Outcome::Kind::kInfer) return rpc::Field(1, outcome.answers.front());
  rpc::Message answers;
  for (const rpc::Message& answer : outcome.answers) rpc::Append(rpc::Field(1, answer), &answers);
  return rpc::Field(4, answers);
}

}  // namespace

Result<std::vector<Reply>> ParseReplies(const rpc::Slice& bytes) {
  std::vector<Reply> replies;
  try {
    ReadReply(pbf_reader(bytes.data(), bytes.size()), bytes, 1, &replies);
  } catch (const std::exception& error) {
    return Status(Code::kDataLoss, std::string("the broker's message is no PullReply: ") + error.what());
  }
  return replies;
}

rpc::Message EncodeHello(const Hello& hello, const std::vector<ItemKey>& held) {
  std::string encoded;
  pbf_writer out(encoded);
  out.add_string(1, hello.replica);
  out.add_string(2, hello.process);
  out.add_string(3, hello.deployment);
  out.add_int64(4, hello.generation);
  out.add_int64(5, hello.revision);
  for (const ItemKey& key : held) out.add_message(6, EncodeKey(key));
  return rpc::Field(1, encoded);
}

rpc::Message EncodeCredits(int more) {
  std::string encoded;
  pbf_writer(encoded).add_int32(1, more);
  return rpc::Field(2, encoded);
}

rpc::Message EncodeProgress(const ItemKey& key, const std::vector<ResultPart>& parts) {
  std::string encoded = EncodeKey(key);
  pbf_writer out(encoded);
  for (const ResultPart& part : parts) {
    pbf_writer entry(out, 4);
    entry.add_int64(1, part.number);
    entry.add_int32(2, static_cast<std::int32_t>(key.attempt));
    entry.add_bytes(3, part.body);
  }
  return rpc::Field(3, encoded);
}

rpc::Message EncodeDone(const ItemKey& key, const Outcome& outcome) {
  rpc::Message done(EncodeKey(key));
  if (outcome.kind == Outcome::Kind::kReturned) {
    std::string again;
    pbf_writer out(again);
    out.add_message(4, EncodeFailure(outcome.failure));
    if (outcome.untouched) out.add_bool(5, true);
    done.Append(std::move(again));
  } else {
    rpc::Append(rpc::Field(3, EncodeResult(outcome)), &done);
  }
  return rpc::Field(4, done);
}

std::vector<rpc::Message> Together(std::vector<rpc::Message> said, std::size_t most_bytes) {
  std::vector<rpc::Message> messages;
  for (rpc::Message& message : said) {
    if (messages.empty() || messages.back().size() + message.size() > most_bytes) {
      messages.push_back(std::move(message));
    } else {
      rpc::Append(rpc::Field(kMore, message), &messages.back());
    }
  }
  return messages;
}

Result<rpc::Slice> StreamedAnswer(const rpc::Slice& message) {
  try {
    pbf_reader reader(message.data(), message.size());
    while (reader.next(2, kBytes)) {
      const protozero::data_view view = reader.get_view();
      return rpc::Slice(message.owner(), view.data(), view.size());
    }
    return rpc::Slice();
  } catch (const std::exception& error) {
    return Status(Code::kDataLoss, std::string("the answer is no ModelStreamInferResponse: ") + error.what());
  }
}

}  // namespace mesh::broker
