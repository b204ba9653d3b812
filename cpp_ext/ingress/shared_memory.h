// Segments of POSIX shared memory that clients on this host registered: inputs are read from them and outputs written
// into them, so that large tensors pass no socket. (Extension `system_shared_memory` of KServe v2.)
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "rpc/message.h"

namespace mesh::ingress {

// Thread-safe. Messages and codes are those of `tritonserver`; unlike there an offset may be any number.
class SharedMemory {
 public:
  // Maps `byte_size` bytes from `offset` of the segment `key` (as shm_open takes it).
  Status Register(const std::string& name, const std::string& key, std::uint64_t offset, std::uint64_t byte_size);
  // What still uses the region keeps it mapped. A name that is not registered is fine.
  void Unregister(const std::string& name);
  void UnregisterAll();
  // A part of a region. NOT_FOUND and INVALID_ARGUMENT say what is wrong, FAILED_PRECONDITION that the segment has
  // been cut since it was registered. The bytes are the clients' to change at any time.
  [[nodiscard]] Result<rpc::Slice> Find(const std::string& name, std::uint64_t offset, std::uint64_t byte_size) const;
  struct Description {
    std::string name;
    std::string key;
    std::uint64_t offset = 0;
    std::uint64_t byte_size = 0;
  };
  // One region, or all for an empty name.
  [[nodiscard]] Result<std::vector<Description>> Describe(const std::string& name) const;

 private:
  class Mapping;
  struct Region {
    std::string key;
    std::uint64_t offset = 0;
    std::uint64_t byte_size = 0;
    std::shared_ptr<const Mapping> mapping;
  };

  mutable std::mutex mutex_;
  std::map<std::string, Region> regions_;  // guarded by mutex_
};

// Whether a peer ("127.0.0.1:51234", "[::1]:51234") is a process of this host, which is whom shared memory is for: to
// others a region would show memory of processes that are not theirs.
bool IsLocalPeer(std::string_view peer);

}  // namespace mesh::ingress
