#include "http/response.h"

#include <array>
#include <ctime>
#include <nlohmann/json.hpp>

namespace mesh::http {
namespace {

const char* Reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Client Closed Request";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Unknown";
  }
}

// "Sat, 21 Nov 2026 19:03:37 GMT", made once a second by each thread.
const std::string& Date() {
  thread_local std::time_t made_at = 0;
  thread_local std::string text;
  const std::time_t now = std::time(nullptr);
  if (now == made_at) return text;
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 40> buffer;
  const std::size_t size = std::strftime(buffer.data(), buffer.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  text.assign(buffer.data(), size);
  made_at = now;
  return text;
}

}  // namespace

Response JsonError(int status, const std::string& message) {
  const nlohmann::json body{{"error", message}};
  return Text(status, kJson, body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

Response Text(int status, std::string_view content_type, std::string text) {
  Response response;
  response.status = status;
  response.content_type = content_type;
  response.body = rpc::Message(std::move(text));
  return response;
}

std::string ResponseHead(const Response& response, Framing framing, bool keep_alive, bool say_keep_alive) {
  std::string head;
  head.reserve(256);
  head.append("HTTP/1.1 ").append(std::to_string(response.status)).append(" ").append(Reason(response.status));
  head.append("\r\nDate: ").append(Date());
  if (!response.content_type.empty()) head.append("\r\nContent-Type: ").append(response.content_type);
  for (const auto& [name, value] : response.headers) head.append("\r\n").append(name).append(": ").append(value);
  if (framing == Framing::kLength) {
    head.append("\r\nContent-Length: ").append(std::to_string(response.body.size()));
  } else if (framing == Framing::kChunks) {
    head.append("\r\nTransfer-Encoding: chunked");
  }
  if (!keep_alive) {
    head.append("\r\nConnection: close");
  } else if (say_keep_alive) {
    head.append("\r\nConnection: keep-alive");
  }
  return head.append("\r\n\r\n");
}

}  // namespace mesh::http
