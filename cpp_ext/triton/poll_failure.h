// Why a model folder could not even be read.
#pragma once

#include <string>

#include "triton/options.h"

namespace mesh::triton {

class Server;

// For a model whose load ended with "failed to poll from model repository": Triton writes the cause into its log and
// nowhere else, so the load is tried once more with the log led into memory. Empty when the log tells nothing.
std::string PollFailure(Server* server, const ServerOptions& options, const std::string& model);

// Whether a load ended in that way.
bool IsPollFailure(const Status& status);

// What a model's folder lacks, with the folder's path and what is there instead: the folder itself, or a version's.
// Empty when it has both. Triton names neither.
std::string FolderProblem(const std::string& repository, const std::string& model);

}  // namespace mesh::triton
