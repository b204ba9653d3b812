// Where nghttp2 sessions get their memory: a dozen small blocks per call, all on the loop's own thread.
#pragma once

#include <nghttp2/nghttp2.h>

namespace mesh::rpc {

// For nghttp2_session_server_new3 and its like, which copy it.
nghttp2_mem* SessionMemory();

}  // namespace mesh::rpc
