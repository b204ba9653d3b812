#include "proxy/sequences.h"

namespace mesh::proxy {

std::string Sequences::Find(const std::string& sequence) {
  const auto found = by_id_.find(sequence);
  if (found == by_id_.end()) return {};
  used_.splice(used_.begin(), used_, found->second);
  return found->second->peer;
}

void Sequences::Put(const std::string& sequence, const std::string& peer) {
  Remove(sequence);
  used_.push_front({sequence, peer});
  by_id_[sequence] = used_.begin();
  if (by_id_.size() <= most_) return;
  by_id_.erase(used_.back().sequence);
  used_.pop_back();
}

void Sequences::Remove(const std::string& sequence) {
  const auto found = by_id_.find(sequence);
  if (found == by_id_.end()) return;
  used_.erase(found->second);
  by_id_.erase(found);
}

}  // namespace mesh::proxy
