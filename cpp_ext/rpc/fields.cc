#include "rpc/fields.h"

#include <iterator>
#include <protozero/types.hpp>
#include <protozero/varint.hpp>

namespace mesh::rpc {
namespace {

// The key and the length of a field whose bytes follow.
std::string Head(std::uint32_t tag, std::size_t size) {
  std::string head;
  constexpr auto kBytes = static_cast<std::uint32_t>(protozero::pbf_wire_type::length_delimited);
  protozero::write_varint(std::back_inserter(head), (tag << 3U) | kBytes);
  protozero::write_varint(std::back_inserter(head), size);
  return head;
}

}  // namespace

void Append(const Message& message, Message* to) {
  for (const Slice& slice : message.slices()) to->Append(slice);
}

Message Field(std::uint32_t tag, const Message& body) {
  Message field(Head(tag, body.size()));
  Append(body, &field);
  return field;
}

Message Field(std::uint32_t tag, const std::string& body) { return Message(Head(tag, body.size()) + body); }

}  // namespace mesh::rpc
