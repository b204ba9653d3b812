// What handlers answer, and how it is written.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rpc/message.h"

namespace mesh::http {

inline constexpr const char* kJson = "application/json";
inline constexpr const char* kPlainText = "text/plain; charset=utf-8";

struct Response {
  int status = 200;
  std::string_view content_type{};                                  // of static text; empty: the header is left out
  std::vector<std::pair<std::string_view, std::string>> headers{};  // names of static text
  rpc::Message body{};
  bool close = false;  // the connection ends after it
};

// {"error":"<message>"}, whatever bytes the message holds.
Response JsonError(int status, const std::string& message);
Response Text(int status, std::string_view content_type, std::string text);

// How the end of a body is told.
enum class Framing : unsigned char { kLength, kChunks, kClose };

// Status line and headers. `keep_alive` false says that the connection will end; `say_keep_alive` is for HTTP/1.0.
std::string ResponseHead(const Response& response, Framing framing, bool keep_alive, bool say_keep_alive);

}  // namespace mesh::http
