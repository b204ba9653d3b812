#include "routing/rendezvous.h"

#include <algorithm>
#include <cmath>

namespace mesh::routing {
namespace {

std::uint64_t Mixed(std::uint64_t value) {
  value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  value = (value ^ (value >> 27U)) * 0x94d049bb133111ebULL;
  return value ^ (value >> 31U);
}

}  // namespace

std::uint64_t StableHash(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char letter : text) hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3ULL;
  return Mixed(hash);
}

double RendezvousScore(std::uint64_t key_hash, const RendezvousMember& member) {
  // 52 bits and a half, so that the share is neither 0 nor rounds to 1, whose logarithm would be 0.
  const double share = (static_cast<double>(Mixed(key_hash ^ member.hash) >> 12U) + 0.5) * 0x1p-52;
  return -static_cast<double>(std::max<std::uint32_t>(member.weight, 1)) / std::log(share);
}

std::vector<std::size_t> RendezvousOrder(std::string_view key, const std::vector<RendezvousMember>& members) {
  const std::uint64_t key_hash = StableHash(key);
  std::vector<std::pair<double, std::size_t>> scored;
  scored.reserve(members.size());
  for (const RendezvousMember& member : members) scored.emplace_back(RendezvousScore(key_hash, member), scored.size());
  std::sort(scored.begin(), scored.end(), [&](const auto& one, const auto& other) {
    if (one.first != other.first) return one.first > other.first;
    const int ids = members[one.second].id.compare(members[other.second].id);
    return ids != 0 ? ids < 0 : one.second < other.second;
  });
  std::vector<std::size_t> order;
  order.reserve(scored.size());
  for (const auto& entry : scored) order.push_back(entry.second);
  return order;
}

}  // namespace mesh::routing
