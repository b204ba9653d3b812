#include "ingress/http_request.h"

namespace mesh::ingress {
namespace {

const char* Reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 431: return "Request Header Fields Too Large";
    default: return "Internal Server Error";
  }
}

bool IsVisible(std::string_view text) {
  for (const char c : text) {
    if (c <= ' ' || c == 0x7f) return false;
  }
  return !text.empty();
}

}  // namespace

HttpRequest ParseHttpRequest(std::string_view received) {
  HttpRequest request;
  const std::size_t line_end = received.find("\r\n");
  if (line_end == std::string_view::npos) return request;
  const std::string_view line = received.substr(0, line_end);
  const std::size_t first = line.find(' ');
  const std::size_t last = line.rfind(' ');
  request.state = HttpRequest::State::kBad;
  if (first == std::string_view::npos || last <= first) return request;
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!IsVisible(method) || !IsVisible(target) || (version != "HTTP/1.1" && version != "HTTP/1.0")) return request;
  request.method = std::string(method);
  request.path = std::string(target.substr(0, target.find('?')));
  const bool whole = received.find("\r\n\r\n", line_end) != std::string_view::npos;
  request.state = whole ? HttpRequest::State::kComplete : HttpRequest::State::kIncomplete;
  return request;
}

std::string HttpResponse(int status, std::string_view content_type, std::string_view body, bool head_only) {
  std::string response = "HTTP/1.1 " + std::to_string(status) + " " + Reason(status) + "\r\nContent-Type: ";
  response.append(content_type).append("\r\nContent-Length: ").append(std::to_string(body.size()));
  if (status == 405) response.append("\r\nAllow: GET, HEAD");
  response.append("\r\nConnection: close\r\n\r\n");
  if (!head_only) response.append(body);
  return response;
}

}  // namespace mesh::ingress
