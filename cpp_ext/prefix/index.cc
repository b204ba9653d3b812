#include "prefix/index.h"

#include <algorithm>
#include <utility>

namespace mesh::prefix {
namespace {

// What containers and the allocator add: a hash table's entry and its bucket; a list's links and a place in a vector
// that grows by doubling.
constexpr std::size_t kNodeExtra = 96;
constexpr std::size_t kHoldExtra = 64;

// How many blocks the edge has in common with what follows `start` in the chain. Hashes stand for all that comes before
// them, so once two differ, all that follow do.
std::size_t Common(const Chain& edge, const Chain& chain, std::size_t start) {
  const std::size_t most = std::min(edge.size(), chain.size() - start);
  const auto chain_at = chain.begin() + static_cast<std::ptrdiff_t>(start);
  if (most > 0 && edge[most - 1] == chain[start + most - 1]) return most;
  std::size_t low = 0;
  std::size_t high = most;
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (edge[middle] == chain_at[static_cast<std::ptrdiff_t>(middle)]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace

std::vector<Match> Index::Find(const Chain& chain) const {
  std::vector<Match> found;
  const Node* parent = nullptr;
  for (std::size_t at = 0; at < chain.size();) {
    const Node* node = Next(parent, chain[at]);
    if (node == nullptr) break;
    const std::size_t same = Common(node->edge, chain, at);
    bool reached = false;
    for (const Hold& hold : node->holds) {
      const auto place = std::lower_bound(found.begin(), found.end(), hold.replica,
                                          [](const Match& one, Replica replica) { return one.replica < replica; });
      const bool known = place != found.end() && place->replica == hold.replica;
      if (at == 0) {
        found.insert(place, Match{hold.replica, same});
      } else if (known && place->blocks == at) {
        place->blocks += same;
      } else {
        continue;  // it does not hold what comes before
      }
      reached = true;
    }
    if (!reached || same < node->edge.size()) break;
    at += same;
    parent = node;
  }
  return found;
}

std::size_t Index::Insert(const Chain& chain, Replica replica, std::size_t max_blocks) {
  ++clock_;
  Owner& owner = owners_[replica];
  const std::vector<Node*> path = PathFor(chain, replica);
  std::size_t before = 0;
  for (const Node* node : path) {
    if (!IsHeld(*node, replica)) break;
    before = std::min(node->start + node->edge.size(), chain.size());
  }
  // The end first, so that what comes before it is the more recent.
  for (auto node = path.rbegin(); node != path.rend(); ++node) MarkUsed(*node, replica, owner);
  Limit(replica, owner, max_blocks);
  LimitBytes();
  return before;
}

// The nodes that make up the chain. What the replica holds is not cut where the chain merely ends within it.
std::vector<Index::Node*> Index::PathFor(const Chain& chain, Replica replica) {
  std::vector<Node*> path;
  for (std::size_t at = 0; at < chain.size();) {
    Node* parent = path.empty() ? nullptr : path.back();
    Node* node = Next(parent, chain[at]);
    if (node == nullptr) {
      path.push_back(Append(parent, chain, at));
      break;
    }
    const std::size_t same = Common(node->edge, chain, at);
    const bool ends_within = at + same == chain.size();
    if (same < node->edge.size() && !(ends_within && IsHeld(*node, replica))) node = Split(node, same);
    path.push_back(node);
    at += same;
  }
  return path;
}

void Index::Trim(const Chain& chain, Replica replica, std::size_t blocks) {
  const auto owner = owners_.find(replica);
  if (owner == owners_.end()) return;
  std::vector<Node*> beyond;
  const Node* parent = nullptr;
  for (std::size_t at = 0; at < chain.size();) {
    Node* node = Next(parent, chain[at]);
    if (node == nullptr) break;
    const std::size_t same = Common(node->edge, chain, at);
    if (at < blocks && blocks < at + same && IsHeld(*node, replica)) {
      parent = Split(node, blocks - at);
      at = blocks;
      continue;
    }
    if (at >= blocks) beyond.push_back(node);
    if (same < node->edge.size()) break;
    at += same;
    parent = node;
  }
  for (auto node = beyond.rbegin(); node != beyond.rend(); ++node) Drop(*node, replica, owner->second);
  LimitBytes();  // two parts of a node take more than one
}

void Index::Remove(Replica replica) {
  const auto owner = owners_.find(replica);
  if (owner == owners_.end()) return;
  while (!owner->second.uses.empty()) Drop(owner->second.uses.back().node, replica, owner->second);
  owners_.erase(owner);
}

bool Index::IsHeld(const Node& node, Replica replica) {
  return std::any_of(node.holds.begin(), node.holds.end(), [&](const Hold& hold) { return hold.replica == replica; });
}

std::size_t Index::HeldBlocks(Replica replica) const {
  const auto owner = owners_.find(replica);
  return owner == owners_.end() ? 0 : owner->second.blocks;
}

Index::Node* Index::Next(const Node* parent, std::uint64_t block) const {
  const auto [first, last] = nodes_.equal_range(block);
  const auto found = std::find_if(first, last, [&](const auto& entry) { return entry.second->parent == parent; });
  return found == last ? nullptr : found->second.get();
}

// A node for all that the chain has from `start` on; nobody holds it yet.
Index::Node* Index::Append(Node* parent, const Chain& chain, std::size_t start) {
  auto made = std::make_unique<Node>();
  made->parent = parent;
  made->start = start;
  made->edge.assign(chain.begin() + static_cast<std::ptrdiff_t>(start), chain.end());
  if (parent != nullptr) ++parent->children;
  Node* node = made.get();
  nodes_.emplace(node->edge.front(), std::move(made));
  Keep(node);
  return node;
}

// Cuts the node behind `keep` of its blocks. Whoever holds it holds both parts; the upper one, which is returned, is
// the new one and the more recently used.
Index::Node* Index::Split(Node* node, std::size_t keep) {
  std::unique_ptr<Node> lower = Take(node);
  auto upper = std::make_unique<Node>();
  const auto cut = lower->edge.begin() + static_cast<std::ptrdiff_t>(keep);
  upper->parent = lower->parent;
  upper->start = lower->start;
  upper->children = 1;
  upper->edge.assign(lower->edge.begin(), cut);
  upper->holds.reserve(lower->holds.size());
  for (const Hold& hold : lower->holds) {
    Uses& uses = owners_.at(hold.replica).uses;
    upper->holds.push_back({hold.replica, uses.insert(hold.use, Use{upper.get(), hold.use->at})});
    bytes_ += sizeof(Use) + sizeof(Hold) + kHoldExtra;
  }
  lower->edge = Chain(cut, lower->edge.end());
  lower->start += keep;
  lower->parent = upper.get();
  Node* made = upper.get();
  nodes_.emplace(lower->edge.front(), std::move(lower));
  nodes_.emplace(made->edge.front(), std::move(upper));
  Keep(node);
  Keep(made);
  return made;
}

// Counts a node that came into the table.
void Index::Keep(Node* node) { bytes_ += sizeof(Node) + kNodeExtra + node->edge.size() * sizeof(std::uint64_t); }

std::unique_ptr<Index::Node> Index::Take(Node* node) {
  const auto [first, last] = nodes_.equal_range(node->edge.front());
  const auto found = std::find_if(first, last, [&](const auto& entry) { return entry.second.get() == node; });
  std::unique_ptr<Node> taken = std::move(found->second);
  nodes_.erase(found);
  bytes_ -= sizeof(Node) + kNodeExtra + node->edge.size() * sizeof(std::uint64_t);
  return taken;
}

void Index::MarkUsed(Node* node, Replica replica, Owner& owner) {
  const auto hold =
      std::find_if(node->holds.begin(), node->holds.end(), [&](const Hold& one) { return one.replica == replica; });
  if (hold != node->holds.end()) {
    hold->use->at = clock_;
    owner.uses.splice(owner.uses.begin(), owner.uses, hold->use);
    return;
  }
  owner.uses.push_front({node, clock_});
  owner.blocks += node->edge.size();
  node->holds.push_back({replica, owner.uses.begin()});
  bytes_ += sizeof(Use) + sizeof(Hold) + kHoldExtra;
}

// The replica does not hold the node any more. Nodes that are of no use then go.
void Index::Drop(Node* node, Replica replica, Owner& owner) {
  const auto hold =
      std::find_if(node->holds.begin(), node->holds.end(), [&](const Hold& one) { return one.replica == replica; });
  if (hold == node->holds.end()) return;
  owner.uses.erase(hold->use);
  owner.blocks -= node->edge.size();
  *hold = node->holds.back();
  node->holds.pop_back();
  bytes_ -= sizeof(Use) + sizeof(Hold) + kHoldExtra;
  while (node != nullptr && node->holds.empty() && node->children == 0) {
    Node* parent = node->parent;
    Take(node);
    if (parent != nullptr) --parent->children;
    node = parent;
  }
}

void Index::Limit(Replica replica, Owner& owner, std::size_t max_blocks) {
  while (max_blocks != 0 && owner.blocks > max_blocks) {
    Node* last = owner.uses.back().node;
    const std::size_t over = owner.blocks - max_blocks;
    if (over < last->edge.size()) Split(last, last->edge.size() - over);  // `last` is the lower part then
    Drop(last, replica, owner);
  }
}

void Index::LimitBytes() {
  while (bytes_ > max_bytes_) {
    auto oldest = owners_.end();
    for (auto owner = owners_.begin(); owner != owners_.end(); ++owner) {
      if (owner->second.uses.empty()) continue;
      if (oldest == owners_.end() || owner->second.uses.back().at < oldest->second.uses.back().at) oldest = owner;
    }
    if (oldest == owners_.end()) return;
    Drop(oldest->second.uses.back().node, oldest->first, oldest->second);
  }
}

}  // namespace mesh::prefix
