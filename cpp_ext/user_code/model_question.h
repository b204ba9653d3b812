// Asking a model of the embedded Triton: pointers go in, pointers come out.
#pragma once

#include <atomic>
#include <memory>

#include "mesh/abi.h"
#include "triton/server.h"
#include "user_code/question.h"

namespace mesh::user {

// Told through `asker`, when the model has answered and does not read the inputs any more. UNIMPLEMENTED for a model
// that answers any number of times.
void AskModel(const triton::Server& server, const MeshQuestion& question, const std::shared_ptr<Asker>& asker);

}  // namespace mesh::user
