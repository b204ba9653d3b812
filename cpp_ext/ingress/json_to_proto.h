// JSON to protobuf's wire format, by tables of message types instead of a protobuf library. Triton answers everything
// but inference as JSON; clients want messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"

namespace mesh::ingress {

enum class Kind : std::uint8_t {
  kBool,
  kInt32,
  kInt64,
  kUint32,
  kUint64,
  kFloat,
  kDouble,
  kString,
  kEnum,
  kMessage,
  kMap
};

struct EnumValue {
  std::string_view name;
  std::int32_t number;
};

struct EnumTable {
  std::string_view name;
  const EnumValue* values;
  std::size_t size;
};

struct MessageTable;

struct FieldTable {
  std::string_view name;  // as in the proto file and as Triton writes it
  std::uint32_t number;
  Kind kind;
  bool repeated;
  bool presence;                // part of a oneof: a default value is written too
  const MessageTable* message;  // of kMessage, and of a kMap its entry (key 1, value 2)
  const EnumTable* values;      // of kEnum
};

struct MessageTable {
  std::string_view name;
  const FieldTable* fields;  // by rising number, the order in which protobuf itself writes them
  std::size_t size;
};

// Encodes a JSON object as a message of `table`. Fields that the table does not know are left out, as a newer Triton
// may know more than its clients. INTERNAL names the path of a value of the wrong type.
Result<std::string> JsonToProto(std::string_view json, const MessageTable& table);
// The same for a JSON array, as the messages of field `number` of an otherwise empty message.
Result<std::string> JsonArrayToProto(std::string_view json, std::uint32_t number, const MessageTable& table);

}  // namespace mesh::ingress
