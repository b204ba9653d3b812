#include "rpc/wire.h"

#include <algorithm>
#include <array>
#include <cstdlib>

namespace mesh::rpc {
namespace {

constexpr std::int64_t kMaxTimeoutDigits = 99'999'999;
constexpr std::size_t kMaxMessageBytes = 4096;  // of grpc-message; more would not fit into many peers' header limits

struct TimeoutUnit {
  char letter;
  std::int64_t nanoseconds;
};
constexpr std::array<TimeoutUnit, 6> kUnits = {
    {{'n', 1}, {'u', 1'000}, {'m', 1'000'000}, {'S', 1'000'000'000}, {'M', 60'000'000'000}, {'H', 3'600'000'000'000}}};

constexpr std::string_view kHexDigits = "0123456789ABCDEF";

int HexValue(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

bool IsKeyCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

bool IsPrintable(char c) { return c >= 0x20 && c <= 0x7e; }

std::string_view TrimSpaces(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

// The digits of the statuses, so that AddStatus allocates nothing.
constexpr std::array<std::string_view, 17> kCodeDigits = {"0", "1",  "2",  "3",  "4",  "5",  "6",  "7", "8",
                                                          "9", "10", "11", "12", "13", "14", "15", "16"};

}  // namespace

std::optional<std::chrono::nanoseconds> ParseTimeout(std::string_view text) {
  if (text.size() < 2 || text.size() > 9) return std::nullopt;
  std::int64_t value = 0;
  for (const char c : text.substr(0, text.size() - 1)) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  for (const TimeoutUnit& unit : kUnits) {
    if (unit.letter != text.back()) continue;
    const std::int64_t most = std::chrono::nanoseconds::max().count() / unit.nanoseconds;
    return std::chrono::nanoseconds(value > most ? std::chrono::nanoseconds::max().count() : value * unit.nanoseconds);
  }
  return std::nullopt;
}

std::string FormatTimeout(std::chrono::nanoseconds timeout) {
  const std::int64_t nanoseconds = std::max<std::int64_t>(timeout.count(), 0);
  for (const TimeoutUnit& unit : kUnits) {
    const std::int64_t value = nanoseconds / unit.nanoseconds + (nanoseconds % unit.nanoseconds == 0 ? 0 : 1);
    if (value <= kMaxTimeoutDigits) return std::to_string(value) + unit.letter;
  }
  return std::to_string(kMaxTimeoutDigits) + 'H';
}

std::string PercentEncode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (IsPrintable(c) && c != '%') {
      out.push_back(c);
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    out.push_back('%');
    out.push_back(kHexDigits[byte >> 4]);
    out.push_back(kHexDigits[byte & 15]);
  }
  return out;
}

std::string PercentDecode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && HexValue(text[i + 1]) >= 0 && HexValue(text[i + 2]) >= 0) {
      out.push_back(static_cast<char>(HexValue(text[i + 1]) * 16 + HexValue(text[i + 2])));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

bool IsReservedHeader(std::string_view name) {
  if (name.empty() || name.front() == ':') return true;
  if (name.substr(0, 5) == "grpc-") return name != "grpc-trace-bin" && name != "grpc-tags-bin";
  return name == "te" || name == "content-type" || name == "content-length" || name == "host" || name == "connection";
}

Status CheckMetadata(const Metadata& metadata) {
  for (const auto& [key, value] : metadata) {
    if (key.empty() || !std::all_of(key.begin(), key.end(), IsKeyCharacter)) {
      return {Code::kInvalidArgument, "metadata key '" + key + "' has characters other than a-z 0-9 - _ ."};
    }
    if (IsReservedHeader(key)) {
      return {Code::kInvalidArgument, "metadata key '" + key + "' is reserved by the protocol"};
    }
    if (!IsBinaryKey(key) && !std::all_of(value.begin(), value.end(), IsPrintable)) {
      return {Code::kInvalidArgument, "the value of metadata key '" + key +
                                          "' has bytes outside of printable ASCII; use a key that ends with -bin"};
    }
  }
  return {};
}

bool AppendReceived(std::string_view name, std::string_view value, Metadata* metadata) {
  if (!IsBinaryKey(name)) {
    metadata->emplace_back(name, value);
    return true;
  }
  for (;;) {
    const std::size_t comma = std::min(value.find(','), value.size());
    std::optional<std::string> bytes = Base64Decode(TrimSpaces(value.substr(0, comma)));
    if (!bytes) return false;
    metadata->emplace_back(name, std::move(*bytes));
    if (comma == value.size()) return true;
    value.remove_prefix(comma + 1);
  }
}

Status StatusFromTrailers(std::string_view grpc_status, std::string_view grpc_message) {
  unsigned value = 0;
  bool number = !grpc_status.empty() && grpc_status.size() <= 3;
  for (const char c : grpc_status) {
    number = number && c >= '0' && c <= '9';
    value = value * 10 + static_cast<unsigned>(c - '0');
  }
  if (!number || value > static_cast<unsigned>(Code::kUnauthenticated)) {
    return {Code::kUnknown, "the peer sent the unknown grpc-status '" + std::string(grpc_status.substr(0, 32)) +
                                "': " + PercentDecode(grpc_message)};
  }
  if (value == 0) return {};
  return {static_cast<Code>(value), PercentDecode(grpc_message)};
}

Code CodeFromHttpStatus(int http_status) {
  switch (http_status) {
    case 400: return Code::kInternal;
    case 401: return Code::kUnauthenticated;
    case 403: return Code::kPermissionDenied;
    case 404: return Code::kUnimplemented;
    case 429:
    case 502:
    case 503:
    case 504: return Code::kUnavailable;
    default: return Code::kUnknown;
  }
}

Code CodeFromHttp2Error(std::uint32_t error_code) {
  switch (error_code) {
    case NGHTTP2_REFUSED_STREAM: return Code::kUnavailable;
    case NGHTTP2_CANCEL: return Code::kCancelled;
    case NGHTTP2_ENHANCE_YOUR_CALM: return Code::kResourceExhausted;
    case NGHTTP2_INADEQUATE_SECURITY: return Code::kPermissionDenied;
    default: return Code::kInternal;
  }
}

void HeaderList::Add(std::string_view name, std::string_view value) {
  list_.push_back({reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
                   reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
                   NGHTTP2_NV_FLAG_NONE});
}

void HeaderList::AddStatic(std::string_view name, std::string_view value) {
  Add(name, value);
  list_.back().flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE;
}

void HeaderList::Add(const Metadata& metadata) {
  for (const auto& [key, value] : metadata) {
    Add(key, IsBinaryKey(key) ? Keep(Base64Encode(value)) : std::string_view{value});
  }
}

void HeaderList::AddStatus(const Status& status) {
  AddStatic("grpc-status",
            kCodeDigits[std::min<std::size_t>(static_cast<std::size_t>(status.code()), kCodeDigits.size() - 1)]);
  if (status.message().empty()) return;
  Add("grpc-message", Keep(PercentEncode(std::string_view{status.message()}.substr(0, kMaxMessageBytes))));
}

std::string_view HeaderList::Keep(std::string text) { return kept_.emplace_back(std::move(text)); }

void HeaderList::Clear() {
  list_.clear();
  kept_.clear();
}

}  // namespace mesh::rpc
