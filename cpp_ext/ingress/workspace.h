// Working memory of an event loop's thread, so that a request allocates little or none of it.
#pragma once

#include "ingress/infer_message.h"
#include "ingress/text.h"

namespace mesh::ingress {

struct Workspace {
  InferMessage message;
  CStringArena arena;
};

// The calling thread's own, emptied.
inline Workspace& LocalWorkspace() {
  thread_local Workspace workspace;
  workspace.message.Clear();
  workspace.arena.Clear();
  return workspace;
}

}  // namespace mesh::ingress
