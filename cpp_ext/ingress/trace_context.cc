#include "ingress/trace_context.h"

#include <algorithm>
#include <chrono>

#include "common/log.h"

namespace mesh::ingress {
namespace {

constexpr std::string_view kParent = "traceparent";
constexpr std::string_view kState = "tracestate";
constexpr std::size_t kSize = 55;  // 00-<32 digits>-<16 digits>-<2 digits>
constexpr std::size_t kMostErrorBytes = 512;

// Lower case only, by the recommendation.
bool IsHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char letter) { return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f'); });
}

bool IsId(std::string_view text) { return IsHex(text) && text.find_first_not_of('0') != std::string_view::npos; }

log::RateLimit& Limit() {
  // Each record is about another trace, so the first ones of many are worth their lines; clients that are wrong all the
  // time must not fill a disk.
  static log::RateLimit limit{std::chrono::milliseconds(100), 100};
  return limit;
}

}  // namespace

bool IsTraceParent(std::string_view text) {
  if (text.size() < kSize || text[2] != '-' || text[35] != '-' || text[52] != '-') return false;
  const std::string_view version = text.substr(0, 2);
  if (!IsHex(version) || version == "ff") return false;
  if (text.size() > kSize && (version == "00" || text[kSize] != '-')) return false;
  return IsId(text.substr(3, 32)) && IsId(text.substr(36, 16)) && IsHex(text.substr(53, 2));
}

TraceContext TraceContextOf(const rpc::Metadata& metadata) {
  TraceContext context;
  for (const auto& [key, value] : metadata) {
    if (key == kState) context.tracestate = value;
    if (key != kParent) continue;
    if (!context.empty() || !IsTraceParent(value)) return {};
    context.traceparent = value;
  }
  return context.empty() ? TraceContext() : context;
}

TraceContext TraceContextOf(const http::Request& request) {
  const auto parent = request.Header(kParent);
  if (!parent.has_value() || !IsTraceParent(*parent)) return {};
  return {*parent, request.Header(kState).value_or(std::string_view())};
}

void LogFailedRequest(const TraceContext& context, std::string_view method, const Status& status) {
  if (context.empty()) return;
  const std::string_view error(status.message());
  log::WriteLimited(Limit(), log::Level::kWarning, "request failed",
                    {{"trace_id", context.trace_id()},
                     {"parent_id", context.parent_id()},
                     {"method", method},
                     {"code", CodeName(status.code())},
                     {"error", error.substr(0, kMostErrorBytes)}});
}

}  // namespace mesh::ingress
