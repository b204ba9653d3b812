// Checks and copies of the strings that requests carry.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace mesh::ingress {

// Protobuf strings must be UTF-8 (INTERNAL, as every gRPC server answers a message that cannot be parsed), and must not
// hold NUL, because Triton's C API would cut them there (INVALID_ARGUMENT). `what` names the field.
Status CheckText(std::string_view text, const char* what);

// For error messages about text that may be anything: what cannot be printed as '?', and not longer than `limit` bytes.
std::string Printable(std::string_view text, std::size_t limit = 200);

// C strings that live until the arena is cleared. Clearing keeps the memory, so a warm arena does not allocate.
class CStringArena {
 public:
  const char* Copy(std::string_view text);
  void Clear();

 private:
  static constexpr std::size_t kBlockBytes = 4096;
  struct Block {
    std::unique_ptr<char[]> data;
    std::size_t size = 0;
    std::size_t used = 0;
  };
  std::vector<Block> blocks_;
};

// "" is kAnyVersion; what is no number, or a negative one, is INVALID_ARGUMENT.
Result<std::int64_t> ParseVersion(std::string_view text);

}  // namespace mesh::ingress
