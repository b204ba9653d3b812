// The headers of one request, checked against gRPC's rules. Pure.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"
#include "rpc/compression.h"
#include "rpc/server.h"

namespace mesh::rpc {

class RequestHeaders {
 public:
  struct Fault {
    std::string_view http_status;  // "200", or what HTTP has for it
    Status status;
  };

  // Takes one header. Beyond `max_bytes` (name + value + 32 each, as HTTP/2 counts) it only counts.
  void Add(std::string_view name, std::string_view value, std::size_t max_bytes);
  // The first rule that the headers break, once they are complete; nullopt: fine.
  [[nodiscard]] std::optional<Fault> Check(std::size_t max_bytes) const;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const Metadata& metadata() const { return metadata_; }
  [[nodiscard]] std::optional<std::chrono::nanoseconds> timeout() const { return timeout_; }
  [[nodiscard]] Encoding encoding() const { return encoding_.value_or(Encoding::kIdentity); }
  [[nodiscard]] bool accepts_gzip() const { return accepts_gzip_; }
  [[nodiscard]] bool accepts_deflate() const { return accepts_deflate_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  void AddReserved(std::string_view name, std::string_view value);

  std::string path_;
  Metadata metadata_;
  std::optional<std::chrono::nanoseconds> timeout_;
  std::optional<Encoding> encoding_ = Encoding::kIdentity;
  std::size_t bytes_ = 0;
  bool post_ = false;
  bool grpc_content_ = false;
  bool te_trailers_ = false;
  bool accepts_gzip_ = false;
  bool accepts_deflate_ = false;
  std::string bad_method_;
  std::string bad_content_type_;
  std::string bad_timeout_;
  std::string bad_encoding_;
  std::string bad_metadata_key_;
};

}  // namespace mesh::rpc
