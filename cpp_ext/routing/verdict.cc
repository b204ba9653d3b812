#include "routing/verdict.h"

#include <algorithm>

namespace mesh::routing {
namespace {

constexpr Verdict kAnswered{Next::kRaise, Fault::kNone};
constexpr Verdict kBusy{Next::kLater, Fault::kBusy};

char Lower(char letter) { return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter; }

// Where `lower_case` begins in `text`, whatever the case of that; npos when it is not there.
std::size_t Find(std::string_view text, std::string_view lower_case, std::size_t from = 0) {
  const auto found = std::search(text.begin() + static_cast<std::ptrdiff_t>(from), text.end(), lower_case.begin(),
                                 lower_case.end(), [](char one, char other) { return Lower(one) == other; });
  return found == text.end() ? std::string_view::npos : static_cast<std::size_t>(found - text.begin());
}

bool Has(std::string_view text, std::string_view lower_case) {
  return Find(text, lower_case) != std::string_view::npos;
}

bool EndsWith(std::string_view text, std::string_view lower_case) {
  return text.size() >= lower_case.size() && Find(text, lower_case, text.size() - lower_case.size()) != text.npos;
}

bool IsDraining(std::string_view details) { return Has(details, "draining") || Has(details, "shutting down"); }

// The words of our own servers, which say them only to what they have not begun.
bool IsRefused(std::string_view details) { return Has(details, "is draining and takes no new requests"); }

// A size that no other endpoint will take either: "exceeds" and then, on the same line, a limit or maximum.
bool IsTooLarge(std::string_view details) {
  if (Has(details, "message larger than") || Has(details, "message is larger than")) return true;
  constexpr std::string_view kExceeds = "exceeds ";
  while (!details.empty()) {
    const std::size_t end = std::min(details.find('\n'), details.size());
    const std::string_view line = details.substr(0, end);
    const std::size_t found = Find(line, kExceeds);
    if (found != std::string_view::npos) {
      const std::string_view rest = line.substr(found + kExceeds.size());
      if (Has(rest, "limit") || Has(rest, "max")) return true;
    }
    details.remove_prefix(std::min(end + 1, details.size()));
  }
  return false;
}

Verdict OfUnavailable(std::string_view details, bool connected, bool retry_safe) {
  if (IsDraining(details)) return {retry_safe || IsRefused(details) ? Next::kElsewhere : Next::kRaise, Fault::kLeaving};
  if (connected && IsQueueFull(details)) {
    // The queue may be that of a later step of an ensemble, whose first steps have run.
    return retry_safe ? kBusy : Verdict{Next::kRaise, Fault::kBusy};
  }
  const Fault fault = connected ? Fault::kFailed : Fault::kLost;
  return {retry_safe || WasNeverSent(details, connected) ? Next::kElsewhere : Next::kRaise, fault};
}

}  // namespace

bool IsQueueFull(std::string_view details) { return Has(details, "exceeds maximum queue size"); }

Verdict Judge(Code code, std::string_view details, bool connected, bool retry_safe) {
  switch (code) {
    case Code::kCancelled:  // by the server: we did not cancel it
      return {retry_safe ? Next::kElsewhere : Next::kRaise, Fault::kFailed};
    case Code::kUnknown:
    case Code::kInternal:
    case Code::kDataLoss: return {Next::kRaise, Fault::kFailed};
    case Code::kDeadlineExceeded: return {Next::kRaise, Fault::kSlow};
    case Code::kNotFound: return {Next::kElsewhereOnce, Fault::kNone};
    case Code::kResourceExhausted: return IsTooLarge(details) ? kAnswered : kBusy;
    case Code::kUnavailable: return OfUnavailable(details, connected, retry_safe);
    default: return kAnswered;
  }
}

bool WasNeverSent(std::string_view details, bool connected) {
  if (EndsWith(details, "(not processed)")) return true;
  return !connected && (Has(details, "failed to connect") || Has(details, "connection refused") ||
                        Has(details, "connections to all backends failing"));
}

}  // namespace mesh::routing
