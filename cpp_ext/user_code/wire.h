// KServe's messages as the caller sees them.
#pragma once

#include <memory>
#include <string>

#include "common/status.h"
#include "mesh/abi.h"
#include "rpc/message.h"
#include "user_code/question.h"

namespace mesh::user {

// inference.ModelInferRequest, with the tensors as raw contents. INVALID_ARGUMENT for more than a message can hold.
Result<std::string> EncodeQuestion(const MeshQuestion& question);

// inference.ModelInferResponse; the tensors stay where they lie in the message. DATA_LOSS for bytes that are none,
// UNIMPLEMENTED for tensors that are not raw.
Result<std::unique_ptr<MeshReply>> DecodeReply(rpc::Slice message);

}  // namespace mesh::user
