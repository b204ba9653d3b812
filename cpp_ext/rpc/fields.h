// Fields of protobuf messages whose bytes are not copied.
#pragma once

#include <cstdint>
#include <string>

#include "rpc/message.h"

namespace mesh::rpc {

// Puts the slices of one message behind those of another.
void Append(const Message& message, Message* to);
// The length-delimited field with these bytes.
Message Field(std::uint32_t tag, const Message& body);
Message Field(std::uint32_t tag, const std::string& body);

}  // namespace mesh::rpc
