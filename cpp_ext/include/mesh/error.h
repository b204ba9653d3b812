// What goes wrong, as clients are told it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace mesh {
inline namespace v1 {

// The codes of gRPC, by which clients decide whether they may try again.
enum class Code : std::int32_t {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// Thrown in Infer it is the answer to the request, with this code and these words. What models and other deployments
// answer arrives as one, too.
class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] Code code() const { return code_; }

 private:
  Code code_;
};

}  // namespace v1
}  // namespace mesh
