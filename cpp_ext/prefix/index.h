// Which replica has computed which beginnings of prompts: a radix tree over chains of block hashes.
//
// An edge holds all blocks up to the next fork, so a long prompt that nobody shares costs one node. Of each node it is
// known which replicas hold it to its end, and when each last used it; a replica uses a node whenever it uses one below
// it, so what is least recently used is always an end. Such ends go first: of one replica beyond what its own cache
// holds, of all beyond `max_bytes`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "prefix/chain.h"

namespace mesh::prefix {

using Replica = std::uint32_t;

struct Match {
  Replica replica;
  std::size_t blocks;
};

// Belongs to one thread.
class Index {
 public:
  explicit Index(std::size_t max_bytes) : max_bytes_(max_bytes) {}
  Index(const Index&) = delete;
  Index& operator=(const Index&) = delete;

  // How many blocks of the chain's beginning each replica holds, by replica; those that hold none are left out.
  std::vector<Match> Find(const Chain& chain) const;

  // From now on the replica holds the chain, and `max_blocks` in all at most (0: no bound of its own). Returns how many
  // blocks of the chain it held before.
  std::size_t Insert(const Chain& chain, Replica replica, std::size_t max_blocks);

  // The replica holds no more than the first `blocks` of this chain.
  void Trim(const Chain& chain, Replica replica, std::size_t blocks);

  // The replica holds nothing.
  void Remove(Replica replica);

  std::size_t bytes() const { return bytes_; }  // that the tree takes, estimated from above
  std::size_t nodes() const { return nodes_.size(); }
  std::size_t HeldBlocks(Replica replica) const;

 private:
  struct Node;
  struct Use {
    Node* node;
    std::uint64_t at;  // by a clock that counts insertions
  };
  using Uses = std::list<Use>;  // of one replica, the latest first
  struct Owner {
    Uses uses;
    std::size_t blocks = 0;
  };
  struct Hold {
    Replica replica;
    Uses::iterator use;
  };
  struct Node {
    Node* parent = nullptr;
    std::size_t start = 0;  // how many blocks come before its own
    std::size_t children = 0;
    Chain edge;
    std::vector<Hold> holds;
  };

  static bool IsHeld(const Node& node, Replica replica);
  std::vector<Node*> PathFor(const Chain& chain, Replica replica);
  Node* Next(const Node* parent, std::uint64_t block) const;
  Node* Append(Node* parent, const Chain& chain, std::size_t start);
  Node* Split(Node* node, std::size_t keep);
  void Keep(Node* node);
  std::unique_ptr<Node> Take(Node* node);
  void MarkUsed(Node* node, Replica replica, Owner& owner);
  void Drop(Node* node, Replica replica, Owner& owner);
  void Limit(Replica replica, Owner& owner, std::size_t max_blocks);
  void LimitBytes();

  const std::size_t max_bytes_;
  std::size_t bytes_ = 0;
  std::uint64_t clock_ = 0;
  // By the first block of each: as its hash stands for the whole way to it, few others have the same.
  std::unordered_multimap<std::uint64_t, std::unique_ptr<Node>> nodes_;
  std::unordered_map<Replica, Owner> owners_;
};

}  // namespace mesh::prefix
