#include "ingress/failure.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <random>

#include "common/log.h"

namespace mesh::ingress {
namespace {

constexpr std::string_view kPythonStack = "\n\nAt:\n";

std::string NewId() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(random()));
  return text.data();
}

log::RateLimit& Limit() {
  static log::RateLimit limit{std::chrono::milliseconds(100)};
  return limit;
}

// Of requests that belong to a trace: each record is about another one, so fewer are held back.
log::RateLimit& TracedLimit() {
  static log::RateLimit limit{std::chrono::milliseconds(100), 100};
  return limit;
}

void Log(log::Level level, std::string_view message, const log::Field& id, const log::Field& place,
         std::string_view detail, const TraceContext& trace) {
  if (trace.empty()) return log::WriteLimited(Limit(), level, message, {id, place, {"detail", detail}});
  log::WriteLimited(TracedLimit(), level, message, {id, place, {"detail", detail}, {"trace_id", trace.trace_id()}});
}

}  // namespace

Status InternalFailure(std::string_view where, std::string_view detail, const TraceContext& trace) {
  const std::string id = NewId();
  Log(log::Level::kError, "internal failure", {"id", id}, {"where", where}, detail, trace);
  return {Code::kInternal, "internal error, logged as " + id};
}

Status Draining() {
  return {Code::kUnavailable, "this replica is draining and takes no new requests; send them to another endpoint"};
}

Status WithoutStack(Status status, std::string_view model, const TraceContext& trace) {
  const std::string::size_type stack = status.message().find(kPythonStack);
  if (stack == std::string::npos) return status;
  const std::string id = NewId();
  Log(log::Level::kWarning, "model failed", {"id", id}, {"model", model}, status.message(), trace);
  return {status.code(), status.message().substr(0, stack) + " (logged as " + id + ")"};
}

}  // namespace mesh::ingress
