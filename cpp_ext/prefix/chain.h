// A prompt as a chain of hashes, one for each whole block of its bytes. Each stands for everything up to its block's
// end, so two prompts begin alike exactly as far as their chains are equal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace mesh::prefix {

using Chain = std::vector<std::uint64_t>;

// `scope`: prompts of different scopes have nothing in common. `seed` is secret, so that nobody can make texts whose
// hashes collide. What follows the last whole block, or block `max_blocks`, does not count.
Chain ChainOf(std::uint64_t seed, std::string_view scope, std::string_view text, std::size_t block_bytes,
              std::size_t max_blocks);

}  // namespace mesh::prefix
