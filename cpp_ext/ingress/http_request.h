// The little of HTTP/1.1 that serving one document needs. Pure.
#pragma once

#include <string>
#include <string_view>

namespace mesh::ingress {

struct HttpRequest {
  enum class State { kIncomplete, kComplete, kBad };
  State state = State::kIncomplete;
  std::string method;
  std::string path;  // without the query
};

// Reads what has come so far: complete when the empty line after the headers is there.
HttpRequest ParseHttpRequest(std::string_view received);

// A whole answer that also ends the connection. `body` is left out for HEAD, its length is not.
std::string HttpResponse(int status, std::string_view content_type, std::string_view body, bool head_only);

}  // namespace mesh::ingress
