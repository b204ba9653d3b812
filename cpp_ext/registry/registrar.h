// Keeps one endpoint in discovery: a key of etcd, bound to a lease that this process renews.
//
// All of it happens on a thread and a connection of its own, so that busy request threads cannot starve the renewal.
// Losing etcd, the lease or the key never ends it: it takes a new lease and writes the key again, for ever.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "registry/options.h"

namespace mesh::registry {

class Registrar {
 public:
  // `value` is an Endpoint in canonical JSON. Its "generation" fences: a key that holds a newer generation is not
  // overwritten, and once another process of the same generation took the key over, this one stays out until it is
  // gone.
  Registrar(Options options, std::string key, std::string value);
  ~Registrar();  // Withdraw()
  Registrar(const Registrar&) = delete;
  Registrar& operator=(const Registrar&) = delete;

  // Starts the thread and returns; registered() follows. Once per object; a repetition does nothing.
  void Start();
  // Replaces the value, as soon as etcd takes it.
  void Update(std::string value);
  // Revokes the lease, which removes the key, and ends the thread. Waits at most about three seconds: if etcd does not
  // answer, the lease runs out by itself. Repeatable.
  void Withdraw();

  [[nodiscard]] std::int64_t lease() const;   // 0: none now
  [[nodiscard]] bool registered() const;      // the key is there, with our lease, as far as we know
  [[nodiscard]] std::string problem() const;  // why it is not registered; empty when it is

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::registry
