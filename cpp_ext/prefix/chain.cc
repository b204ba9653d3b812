#include "prefix/chain.h"

#include <algorithm>
#include <cstring>

namespace mesh::prefix {
namespace {

// Multiplying to 128 bits and folding the halves mixes 8 bytes in one step. The constants are digits of pi.
std::uint64_t Folded(std::uint64_t one, std::uint64_t other) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(one ^ 0x243f6a8885a308d3ULL) * (other ^ 0x13198a2e03707344ULL);
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64U);
}

std::uint64_t Hashed(std::uint64_t hash, std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min(sizeof(word), bytes.size() - at));
    hash = Folded(hash, word);
  }
  return Folded(hash, bytes.size());
}

}  // namespace

Chain ChainOf(std::uint64_t seed, std::string_view scope, std::string_view text, std::size_t block_bytes,
              std::size_t max_blocks) {
  const std::size_t blocks = std::min(text.size() / block_bytes, max_blocks);
  Chain chain;
  chain.reserve(blocks);
  std::uint64_t hash = Hashed(seed, scope);
  for (std::size_t block = 0; block < blocks; ++block) {
    hash = Hashed(hash, text.substr(block * block_bytes, block_bytes));
    chain.push_back(hash);
  }
  return chain;
}

}  // namespace mesh::prefix
