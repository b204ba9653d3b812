// One HTTP/1.x request as handlers see it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rpc/message.h"

namespace mesh::http {

// The head's text lies in one allocation; the views end with the request.
class Request {
 public:
  [[nodiscard]] std::string_view method() const { return method_; }  // "GET"
  // The target without its query, as it was sent: percent signs are still there.
  [[nodiscard]] std::string_view path() const { return View(path_); }
  [[nodiscard]] std::string_view query() const { return View(query_); }
  // The first header of that name, in any case.
  [[nodiscard]] std::optional<std::string_view> Header(std::string_view name) const;
  // All of them, their names in lower case.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> Headers() const;
  // Whole, of all chunks, decompressed when the Content-Encoding is known; contiguous.
  [[nodiscard]] const rpc::Slice& body() const { return body_; }
  [[nodiscard]] rpc::Slice TakeBody() { return std::exchange(body_, {}); }
  void ReplaceBody(rpc::Slice body) { body_ = std::move(body); }

  [[nodiscard]] bool keep_alive() const { return keep_alive_; }  // what the client wishes
  [[nodiscard]] bool is_http10() const { return http10_; }       // knows no chunks
  [[nodiscard]] bool is_head() const { return method_ == "HEAD"; }

 private:
  friend class RequestParser;
  struct Range {
    std::uint32_t begin = 0;
    std::uint32_t size = 0;
  };
  struct Line {
    Range name;
    Range value;
  };
  [[nodiscard]] std::string_view View(Range range) const { return {text_.data() + range.begin, range.size}; }

  std::string text_;
  std::string_view method_;  // static
  Range path_;
  Range query_;
  std::vector<Line> headers_;
  rpc::Slice body_;
  bool keep_alive_ = false;
  bool http10_ = false;
};

// Whether two texts are the same but for the case of ASCII letters, as names of headers are.
bool SameText(std::string_view a, std::string_view b);

}  // namespace mesh::http
