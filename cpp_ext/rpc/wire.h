// The small codings of gRPC over HTTP/2: grpc-timeout, grpc-message, metadata. Pure functions.
#pragma once

#include <nghttp2/nghttp2.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "rpc/server.h"

namespace mesh::rpc {

// "100m" is 100 milliseconds. nullopt when it is not 1 to 8 digits and a unit of H M S m u n.
std::optional<std::chrono::nanoseconds> ParseTimeout(std::string_view text);
// Rounded up to what 8 digits can express; a negative one is "0n".
std::string FormatTimeout(std::chrono::nanoseconds timeout);

// grpc-message: bytes outside of printable ASCII, and '%', as %XX. Decoding leaves broken escapes as they are.
std::string PercentEncode(std::string_view text);
std::string PercentDecode(std::string_view text);

// Encoding writes no padding; decoding takes both. nullopt for anything else.
std::string Base64Encode(std::string_view bytes);
std::optional<std::string> Base64Decode(std::string_view text);

// Whether the value of this key is bytes, coded in base64 on the wire.
inline bool IsBinaryKey(std::string_view key) { return key.size() > 4 && key.compare(key.size() - 4, 4, "-bin") == 0; }
// Names that belong to the protocol and never appear in Metadata: pseudo-headers, "grpc-...", te, content-type, ...
bool IsReservedHeader(std::string_view name);
// INVALID_ARGUMENT naming the first key or value that cannot be sent.
Status CheckMetadata(const Metadata& metadata);
// Adds one received header to `metadata`; "-bin" values are decoded, each of a comma-separated list by itself.
// False when a "-bin" value is not base64.
bool AppendReceived(std::string_view name, std::string_view value, Metadata* metadata);

// The status in a pair of trailers; `grpc_status` may be anything a peer sends.
Status StatusFromTrailers(std::string_view grpc_status, std::string_view grpc_message);
// For an answer without grpc-status (https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md).
Code CodeFromHttpStatus(int http_status);
// For a stream that was reset without trailers.
Code CodeFromHttp2Error(std::uint32_t error_code);

// nghttp2's form of a list of headers. Names and values given as views must outlive it; nghttp2 copies when it submits.
class HeaderList {
 public:
  void Add(std::string_view name, std::string_view value);        // nghttp2 copies
  void AddStatic(std::string_view name, std::string_view value);  // lives for ever: nghttp2 keeps the pointers
  // Codes "-bin" values and keeps the strings itself.
  void Add(const Metadata& metadata);
  void AddStatus(const Status& status);  // grpc-status, grpc-message
  void Clear();
  [[nodiscard]] const nghttp2_nv* data() const { return list_.data(); }
  [[nodiscard]] std::size_t size() const { return list_.size(); }

 private:
  std::string_view Keep(std::string text);

  std::vector<nghttp2_nv> list_;
  std::deque<std::string> kept_;
};

}  // namespace mesh::rpc
