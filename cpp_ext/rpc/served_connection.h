// A client's connection as its loop sees it, whatever protocol is spoken on it.
#pragma once

#include "rpc/event_loop.h"

namespace mesh::rpc {

class ServedConnection : public IoHandler {
 public:
  // Called once, when the loop has taken it.
  virtual void Start() = 0;
  // Answers what runs, tells the client to go elsewhere, and closes. May come before Start.
  virtual void BeginDrain() = 0;
  // Ends all that runs and closes.
  virtual void Abort() = 0;
  // Whether a drain has to wait for it.
  [[nodiscard]] virtual bool busy() const = 0;
};

}  // namespace mesh::rpc
