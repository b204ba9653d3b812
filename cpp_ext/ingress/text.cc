#include "ingress/text.h"

#include <charconv>
#include <cstring>

#include "triton/server.h"

namespace mesh::ingress {
namespace {

// The length of the UTF-8 sequence that starts at `text[at]`, 0 for a bad one. Rejects overlong forms and surrogates.
std::size_t SequenceLength(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char first = byte(0);
  const std::size_t length = first < 0x80           ? 1
                             : (first >> 5) == 0x6  ? 2
                             : (first >> 4) == 0xE  ? 3
                             : (first >> 3) == 0x1E ? 4
                                                    : 0;
  if (length == 0 || at + length > text.size()) return 0;
  std::uint32_t code = length == 1 ? first : first & (0xFFU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    code = (code << 6) | (byte(i) & 0x3FU);
  }
  constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  return code < kLeast[length] || code > 0x10FFFF || surrogate ? 0 : length;
}

}  // namespace

Status CheckText(std::string_view text, const char* what) {
  for (std::size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    const std::size_t length = byte != 0 && byte < 0x80 ? 1 : byte == 0 ? 0 : SequenceLength(text, at);
    if (length == 0) {
      return byte == 0
                 ? Status(Code::kInvalidArgument, std::string(what) + " '" + Printable(text) + "' holds a NUL byte")
                 : Status(Code::kInternal,
                          "Unable to parse request: " + std::string(what) + " '" + Printable(text) + "' is not UTF-8");
    }
    at += length;
  }
  return {};
}

std::string Printable(std::string_view text, std::size_t limit) {
  std::string shown;
  for (std::size_t at = 0; at < text.size() && shown.size() < limit;) {
    const std::size_t length = SequenceLength(text, at);
    const bool control = static_cast<unsigned char>(text[at]) < 0x20;
    if (length == 0 || control) {
      shown.push_back('?');
      ++at;
      continue;
    }
    shown.append(text.substr(at, length));
    at += length;
  }
  if (shown.size() >= limit) shown += "...";
  return shown;
}

const char* CStringArena::Copy(std::string_view text) {
  const std::size_t needed = text.size() + 1;
  if (blocks_.empty() || blocks_.back().size - blocks_.back().used < needed) {
    const std::size_t size = needed > kBlockBytes ? needed : kBlockBytes;
    blocks_.push_back({std::unique_ptr<char[]>(new char[size]), size, 0});
  }
  Block& block = blocks_.back();
  char* copy = block.data.get() + block.used;
  if (!text.empty()) std::memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  block.used += needed;
  return copy;
}

void CStringArena::Clear() {
  if (blocks_.size() > 1 || (!blocks_.empty() && blocks_.front().size > kBlockBytes)) blocks_.clear();
  if (!blocks_.empty()) blocks_.front().used = 0;
}

Result<std::int64_t> ParseVersion(std::string_view text) {
  if (text.empty()) return triton::kAnyVersion;
  std::int64_t version = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  if (whole && version >= 0) return version;  // Triton itself knows no version 0
  if (whole) {
    return Status(Code::kInvalidArgument, "invalid model version specified '" + Printable(text) +
                                              "' , version should be an integral value > 0");
  }
  return Status(Code::kInvalidArgument, "failed to get model version from specified version string '" +
                                            Printable(text) + "', version should be an integral value > 0");
}

}  // namespace mesh::ingress
