// Message compression: gzip and deflate (zlib), as grpc-encoding names them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"
#include "rpc/message.h"

namespace mesh::rpc {

enum class Encoding : std::uint8_t { kIdentity, kGzip, kDeflate };

// The value of grpc-accept-encoding for all that Decompress understands.
inline constexpr std::string_view kAcceptedEncodings = "identity,deflate,gzip";

// "gzip"; nullopt for an encoding that is not supported.
std::optional<Encoding> ParseEncoding(std::string_view name);
std::string_view EncodingName(Encoding encoding);
// Whether the list of a grpc-accept-encoding header allows it. Identity always is.
bool Accepts(std::string_view accept_encoding, Encoding encoding);

Result<std::string> Compress(Encoding encoding, const Message& message);
// RESOURCE_EXHAUSTED as soon as more than `limit` bytes come out, before they are stored; INTERNAL for damaged input.
Result<Slice> Decompress(Encoding encoding, std::string_view bytes, std::size_t limit);

}  // namespace mesh::rpc
