// The outcome of an operation: a gRPC status code and a message that says what was wrong, where, and what to do.
// The codes and their meaning are those of serving/errors.py. Exceptions do not cross module edges; Status does.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

namespace mesh {

enum class Code : std::uint8_t {
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

// "INVALID_ARGUMENT" and so on; "UNKNOWN" for a number outside the table.
const char* CodeName(Code code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // OK
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  [[nodiscard]] bool ok() const { return code_ == Code::kOk; }
  [[nodiscard]] Code code() const { return code_; }
  [[nodiscard]] const std::string& message() const { return message_; }
  // "NOT_FOUND: model 'x' is not known", "OK".
  [[nodiscard]] std::string ToString() const;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// A value, or the status that says why there is none. value() of a failed result is a programming error.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : held_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : held_(std::move(status)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return std::holds_alternative<T>(held_); }
  [[nodiscard]] Status status() const { return ok() ? Status() : std::get<Status>(held_); }
  [[nodiscard]] const T& value() const& { return std::get<T>(held_); }
  [[nodiscard]] T& value() & { return std::get<T>(held_); }
  [[nodiscard]] T&& value() && { return std::get<T>(std::move(held_)); }

 private:
  std::variant<T, Status> held_;
};

}  // namespace mesh
