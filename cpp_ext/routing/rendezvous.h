// Consistent hashing: which endpoint a key belongs to. When an endpoint comes or goes, only the keys that it gets or
// had move. The twin of serving/routing/rendezvous.py; tests/contract/routing proves that both agree.
//
// Rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998). Weights by the
// logarithmic method of Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005): -weight / ln(share).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh::routing {

// FNV-1a of 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv), then the finalizer of splitmix64 (Steele, Lea, Flood: "Fast
// splittable pseudorandom number generators", 2014), as FNV alone spreads short texts badly over the high bits. The
// value is the same in every process, version and language.
std::uint64_t StableHash(std::string_view text);

struct RendezvousMember {
  RendezvousMember(std::string member_id, std::uint32_t member_weight)
      : id(std::move(member_id)), weight(member_weight), hash(StableHash(id)) {}

  std::string id;
  std::uint32_t weight;  // 0 counts as 1
  std::uint64_t hash;    // of the id, so that a choice need not read it
};

// How strongly the member claims the key; the most wins.
double RendezvousScore(std::uint64_t key_hash, const RendezvousMember& member);

// Indices of all members, the best first; ties by id.
std::vector<std::size_t> RendezvousOrder(std::string_view key, const std::vector<RendezvousMember>& members);

// The first one of that order for which `allowed(index)` says yes; nullopt when there is none. Allocates nothing.
template <typename Allowed>
std::optional<std::size_t> RendezvousBest(std::string_view key, const std::vector<RendezvousMember>& members,
                                          Allowed&& allowed) {
  const std::uint64_t key_hash = StableHash(key);
  std::optional<std::size_t> best;
  double most = 0.0;
  for (std::size_t index = 0; index < members.size(); ++index) {
    if (!allowed(index)) continue;
    const double score = RendezvousScore(key_hash, members[index]);
    if (!best || score > most || (score == most && members[index].id < members[*best].id)) {
      best = index;
      most = score;
    }
  }
  return best;
}

}  // namespace mesh::routing
