#include "rpc/request_headers.h"

#include "rpc/wire.h"

namespace mesh::rpc {
namespace {

constexpr std::size_t kHeaderOverhead = 32;  // RFC 9113, 6.5.2
constexpr std::size_t kQuotedBytes = 64;     // of a peer's text that goes into an error message
constexpr std::string_view kGrpc = "application/grpc";

std::string Quote(std::string_view text) { return "'" + std::string(text.substr(0, kQuotedBytes)) + "'"; }

bool IsGrpcContent(std::string_view value) {
  if (value.substr(0, kGrpc.size()) != kGrpc) return false;
  return value.size() == kGrpc.size() || value[kGrpc.size()] == '+' || value[kGrpc.size()] == ';';
}

}  // namespace

void RequestHeaders::Add(std::string_view name, std::string_view value, std::size_t max_bytes) {
  bytes_ += name.size() + value.size() + kHeaderOverhead;
  if (bytes_ > max_bytes) return;
  if (IsReservedHeader(name)) {
    AddReserved(name, value);
  } else if (!AppendReceived(name, value, &metadata_) && bad_metadata_key_.empty()) {
    bad_metadata_key_ = name;
  }
}

void RequestHeaders::AddReserved(std::string_view name, std::string_view value) {
  if (name == ":path") {
    path_ = value;
  } else if (name == ":method") {
    post_ = value == "POST";
    if (!post_) bad_method_ = Quote(value);
  } else if (name == "te") {
    te_trailers_ = value == "trailers";
  } else if (name == "content-type") {
    grpc_content_ = IsGrpcContent(value);
    if (!grpc_content_) bad_content_type_ = Quote(value);
  } else if (name == "grpc-timeout") {
    timeout_ = ParseTimeout(value);
    if (!timeout_) bad_timeout_ = Quote(value);
  } else if (name == "grpc-encoding") {
    encoding_ = ParseEncoding(value);
    if (!encoding_) bad_encoding_ = Quote(value);
  } else if (name == "grpc-accept-encoding") {
    accepts_gzip_ = Accepts(value, Encoding::kGzip);
    accepts_deflate_ = Accepts(value, Encoding::kDeflate);
  }
}

std::optional<RequestHeaders::Fault> RequestHeaders::Check(std::size_t max_bytes) const {
  if (bytes_ > max_bytes) {
    return Fault{
        "200",
        {Code::kResourceExhausted, "the request's metadata has " + std::to_string(bytes_) +
                                       " bytes, more than the limit of " + std::to_string(max_bytes) + " bytes"}};
  }
  if (!post_) return Fault{"405", {Code::kInternal, "gRPC needs the HTTP method POST, not " + bad_method_}};
  if (!grpc_content_) {
    return Fault{"415",
                 {Code::kInternal, bad_content_type_.empty()
                                       ? "the request has no content-type, gRPC needs application/grpc"
                                       : "the content-type is " + bad_content_type_ + ", gRPC needs application/grpc"}};
  }
  if (!te_trailers_) {
    return Fault{"400", {Code::kInternal, "the request has no 'te: trailers': something between does not speak gRPC"}};
  }
  if (path_.empty() || path_.front() != '/') {
    return Fault{"200",
                 {Code::kUnimplemented, "the path " + Quote(path_) + " is not of the form /package.Service/Method"}};
  }
  if (!bad_timeout_.empty()) {
    return Fault{
        "200",
        {Code::kInvalidArgument, "grpc-timeout is " + bad_timeout_ + ", not 1 to 8 digits and one of H M S m u n"}};
  }
  if (!bad_encoding_.empty()) {
    return Fault{"200",
                 {Code::kUnimplemented, "grpc-encoding " + bad_encoding_ + " is not supported, use one of " +
                                            std::string(kAcceptedEncodings)}};
  }
  if (!bad_metadata_key_.empty()) {
    return Fault{"200",
                 {Code::kInvalidArgument, "the value of metadata key " + Quote(bad_metadata_key_) + " is not base64"}};
  }
  return std::nullopt;
}

}  // namespace mesh::rpc
