// Which peer has the state of which sequence. Bounded: the longest unused are forgotten, and found again by the hash of
// their id as long as the endpoints are the same.
#pragma once

#include <cstddef>
#include <list>
#include <string>
#include <unordered_map>

namespace mesh::proxy {

class Sequences {
 public:
  explicit Sequences(std::size_t most = 100'000) : most_(most) {}

  // The peer's name; empty when it is not known.
  std::string Find(const std::string& sequence);
  void Put(const std::string& sequence, const std::string& peer);
  void Remove(const std::string& sequence);
  [[nodiscard]] std::size_t size() const { return by_id_.size(); }

 private:
  struct Entry {
    std::string sequence;
    std::string peer;
  };

  const std::size_t most_;
  std::list<Entry> used_;  // the latest first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_id_;
};

}  // namespace mesh::proxy
