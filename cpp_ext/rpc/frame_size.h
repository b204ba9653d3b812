// How large DATA frames are, of servers and of clients.
#pragma once

#include <nghttp2/nghttp2.h>
#include <sys/types.h>

#include <algorithm>
#include <cstdint>

namespace mesh::rpc {

// HTTP/2's own 16 KiB cost a large tensor hundreds of frames; other calls of the connection wait for one at most.
constexpr std::uint32_t kLargestFrame = 256 * 1024;

// nghttp2's callback for it: of what the peer allows, its windows, and its SETTINGS_MAX_FRAME_SIZE.
inline ssize_t FrameLength(nghttp2_session* /*session*/, std::uint8_t /*type*/, std::int32_t /*stream*/,
                           std::int32_t session_window, std::int32_t stream_window, std::uint32_t max_frame_size,
                           void* /*user*/) {
  return std::min<ssize_t>(
      {session_window, stream_window, static_cast<ssize_t>(std::min(max_frame_size, kLargestFrame))});
}

}  // namespace mesh::rpc
