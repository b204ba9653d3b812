// The other side of Pull: what a broker reads and writes.
#pragma once

#include <cstdint>
#include <map>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <string>
#include <utility>
#include <vector>

#include "broker/held.h"

namespace mesh::broker {

// One PullRequest, read field by field.
struct Heard {
  enum class Kind : std::uint8_t { kNothing, kHello, kCredits, kProgress, kDone };
  Kind kind = Kind::kNothing;
  std::string replica;
  std::string process;
  std::string deployment;
  std::vector<ItemKey> held;  // of a hello
  int credits = 0;
  ItemKey key;
  std::vector<ResultPart> parts;
  std::string infer;                // of a result
  std::vector<std::string> infers;  // of a result
  int failure = 0;                  // code of a result's failure
  std::string text;                 // its message, or that of `again`
  int again = 0;                    // code
  bool untouched = false;
};

inline std::pair<int, std::string> ReadFailure(protozero::pbf_reader reader) {
  std::pair<int, std::string> failure;
  while (reader.next()) {
    if (reader.tag() == 1) {
      failure.first = reader.get_int32();
    } else if (reader.tag() == 2) {
      failure.second = reader.get_string();
    } else {
      reader.skip();
    }
  }
  return failure;
}

inline ItemKey ReadHeld(protozero::pbf_reader reader) {
  ItemKey key;
  while (reader.next()) {
    if (reader.tag() == 1) {
      key.item = reader.get_string();
    } else {
      key.attempt = reader.get_int64();
    }
  }
  return key;
}

inline void ReadResult(protozero::pbf_reader reader, Heard* heard) {
  while (reader.next()) {
    if (reader.tag() == 1) {
      heard->infer = reader.get_string();
    } else if (reader.tag() == 3) {
      std::tie(heard->failure, heard->text) = ReadFailure(reader.get_message());
    } else if (reader.tag() == 4) {
      protozero::pbf_reader answers = reader.get_message();
      while (answers.next()) heard->infers.push_back(answers.get_string());
    } else {
      reader.skip();
    }
  }
}

inline void ReadDone(protozero::pbf_reader reader, Heard* heard) {
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: heard->key.item = reader.get_string(); break;
      case 2: heard->key.attempt = reader.get_int64(); break;
      case 3: ReadResult(reader.get_message(), heard); break;
      case 4: std::tie(heard->again, heard->text) = ReadFailure(reader.get_message()); break;
      case 5: heard->untouched = reader.get_bool(); break;
      default: reader.skip();
    }
  }
}

inline ResultPart ReadPart(protozero::pbf_reader reader) {
  ResultPart part;
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: part.number = reader.get_int64(); break;
      case 3: part.body = reader.get_string(); break;
      default: reader.skip();
    }
  }
  return part;
}

inline void ReadProgress(protozero::pbf_reader reader, Heard* heard) {
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: heard->key.item = reader.get_string(); break;
      case 2: heard->key.attempt = reader.get_int64(); break;
      case 4: heard->parts.push_back(ReadPart(reader.get_message())); break;
      default: reader.skip();
    }
  }
}

inline void ReadHello(protozero::pbf_reader reader, Heard* heard) {
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: heard->replica = reader.get_string(); break;
      case 2: heard->process = reader.get_string(); break;
      case 3: heard->deployment = reader.get_string(); break;
      case 6: heard->held.push_back(ReadHeld(reader.get_message())); break;
      default: reader.skip();
    }
  }
}

// A PullRequest and those that it carries.
inline void ReadRequests(protozero::pbf_reader reader, std::vector<Heard>* all) {
  Heard heard;
  std::vector<Heard> more;
  while (reader.next()) {
    heard.kind = reader.tag() <= 4 ? static_cast<Heard::Kind>(reader.tag()) : heard.kind;
    switch (reader.tag()) {
      case 1: ReadHello(reader.get_message(), &heard); break;
      case 2: {
        protozero::pbf_reader credits = reader.get_message();
        while (credits.next()) heard.credits = credits.get_int32();
        break;
      }
      case 3: ReadProgress(reader.get_message(), &heard); break;
      case 4: ReadDone(reader.get_message(), &heard); break;
      case 15: ReadRequests(reader.get_message(), &more); break;
      default: reader.skip();
    }
  }
  all->push_back(std::move(heard));
  all->insert(all->end(), more.begin(), more.end());
}

// ---------------------------------------------------------------- encoded PullReplies

inline std::string ReplyText(std::uint32_t tag, const std::string& body) {
  std::string encoded;
  protozero::pbf_writer(encoded).add_message(tag, body);
  return encoded;
}

inline std::string KeyText(const ItemKey& key) {
  std::string encoded;
  protozero::pbf_writer out(encoded);
  out.add_string(1, key.item);
  out.add_int64(2, key.attempt);
  return encoded;
}

inline std::string WelcomeText(double lease_s, const std::vector<ItemKey>& lost = {}, std::int64_t max_result = 0) {
  std::string encoded;
  protozero::pbf_writer out(encoded);
  out.add_double(1, lease_s);
  for (const ItemKey& key : lost) out.add_message(2, KeyText(key));
  out.add_int64(3, max_result);
  return ReplyText(1, encoded);
}

struct WorkText {
  ItemKey key;
  std::string infer;
  std::string http;
  std::map<std::string, std::string> metadata = {};
  double left_s = 0.0;
  bool wants_parts = false;

  [[nodiscard]] std::string Encode() const {
    std::string request;
    protozero::pbf_writer in(request);
    if (http.empty()) {
      in.add_bytes(1, infer);
    } else {
      in.add_message(2, http);
    }
    for (const auto& [name, value] : metadata) {
      protozero::pbf_writer entry(in, 3);
      entry.add_string(1, name);
      entry.add_string(2, value);
    }
    std::string encoded = KeyText(key);
    protozero::pbf_writer out(encoded);
    out.add_message(3, request);
    out.add_double(4, left_s);
    out.add_bool(6, wants_parts);
    return ReplyText(2, encoded);
  }
};

inline std::string StopText(const ItemKey& key, const std::string& reason) {
  std::string encoded = KeyText(key);
  protozero::pbf_writer(encoded).add_string(3, reason);
  return ReplyText(3, encoded);
}

inline std::string StoredText(const ItemKey& key) { return ReplyText(4, KeyText(key)); }

// `first` with `others` beside it.
inline std::string With(std::string first, const std::vector<std::string>& others) {
  protozero::pbf_writer out(first);
  for (const std::string& other : others) out.add_message(15, other);
  return first;
}

}  // namespace mesh::broker
