// Tables of the answers that Triton gives as JSON (json_to_proto.h). Numbers as in the inference service's proto.
#pragma once

#include "ingress/json_to_proto.h"

namespace mesh::ingress {

extern const MessageTable kServerMetadataTable;
extern const MessageTable kModelMetadataTable;
extern const MessageTable kModelStatisticsTable;
extern const MessageTable kModelIndexTable;   // one entry; the answer repeats it as field 1
extern const MessageTable kModelConfigTable;  // generated from proto/open_inference_model_config.proto

}  // namespace mesh::ingress
