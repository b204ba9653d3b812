#include "routing/policy.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string_view>

#include "common/json.h"

namespace mesh::routing {
namespace {

using nlohmann::json;

constexpr double kMinute = 60.0;
constexpr double kHour = 60 * kMinute;
constexpr double kDay = 24 * kHour;
constexpr double kShortest = 0.001;  // of what must take time
constexpr double kShortestHedge = 0.0001;
constexpr int kMany = 1'000'000;
constexpr std::size_t kMaxLabels = 256;
constexpr Choice kChoices[] = {Choice::kPowerOfTwo, Choice::kLeastLatency, Choice::kConsistentHash};

std::string Camel(std::string_view name) {
  std::string camel;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const bool up = name[i] == '_' && i + 1 < name.size();
    camel += up ? static_cast<char>(name[++i] - 'a' + 'A') : name[i];
  }
  return camel;
}

std::string Shown(const json& value) {
  std::string text = mesh::json::Dump(value);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

template <typename T>
std::string Range(const char* what, T low, T high) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text << std::defaultfloat << what << " from " << low << " to " << high;
  return text.str();
}

// Reads the fields of one object, each by its own call; what no call named is not known. Keeps the first error.
class Reader {
 public:
  Reader(const json& object, std::string path, Status* status)
      : object_(object), path_(std::move(path)), status_(status) {}

  // The value; null when it is absent or null.
  const json* Find(const char* name) {
    names_.emplace_back(name);
    const std::string camel = Camel(name);
    const auto plain = object_.find(name);
    const auto other = camel == name ? object_.end() : object_.find(camel);
    if (plain != object_.end() && other != object_.end()) Refuse(name, "stands there twice, as " + camel + " too");
    const auto found = plain != object_.end() ? plain : other;
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  void Whole(const char* name, int* into, int low, int high) {
    const json* value = Find(name);
    if (value == nullptr) return;
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (number >= low && number <= high && std::floor(number) == number) {
      *into = static_cast<int>(number);
    } else {
      Wrong(name, Range("a whole number", low, high), *value);
    }
  }

  void Number(const char* name, double* into, double low, double high) {
    const json* value = Find(name);
    if (value == nullptr) return;
    const double number = value->is_number() ? value->get<double>() : std::nan("");
    if (number >= low && number <= high) {
      *into = number;
    } else {
      Wrong(name, Range("a number", low, high), *value);
    }
  }

  std::string Text(const char* name, const char* otherwise) {
    const json* value = Find(name);
    if (value != nullptr && !value->is_string()) Wrong(name, "a string", *value);
    return value != nullptr && value->is_string() ? value->get<std::string>() : std::string(otherwise);
  }

  // An empty object when it is absent.
  json Nested(const char* name) {
    const json* value = Find(name);
    if (value != nullptr && !value->is_object()) Wrong(name, "an object", *value);
    return value != nullptr && value->is_object() ? *value : json::object();
  }

  void Wrong(const char* name, const std::string& expected, const json& value) {
    Refuse(name, "must be " + expected + ", not " + Shown(value));
  }

  void Refuse(const std::string& name, const std::string& why) {
    if (status_->ok()) *status_ = Status(Code::kInvalidArgument, "field '" + path_ + name + "' " + why);
  }

  // Call it last.
  void RefuseUnknown() {
    for (const auto& [name, value] : object_.items()) {
      const bool known = std::any_of(names_.begin(), names_.end(), [&given = name](const std::string& one) {
        return one == given || Camel(one) == given;
      });
      if (known) continue;
      std::string all;
      for (const std::string& one : names_) all += (all.empty() ? "" : ", ") + one;
      Refuse(name, "is not known; known are " + all);
    }
  }

 private:
  const json& object_;
  const std::string path_;
  Status* status_;
  std::vector<std::string> names_;
};

void ReadOutliers(const json& object, OutlierConfig* outliers, Status* status) {
  Reader in(object, "outliers.", status);
  in.Whole("consecutive_failures", &outliers->consecutive_failures, 1, kMany);
  in.Number("failure_rate", &outliers->failure_rate, 0.001, 2.0);  // more than 1 is never
  in.Whole("rate_requests", &outliers->rate_requests, 1, kMany);
  in.Number("window_s", &outliers->window_s, kShortest, kDay);
  in.Number("base_s", &outliers->base_s, kShortest, kDay);
  in.Number("max_s", &outliers->max_s, kShortest, kDay);
  in.Number("forgive_s", &outliers->forgive_s, 0.0, kDay);
  in.Number("max_share", &outliers->max_share, 0.0, 1.0);
  if (outliers->max_s < outliers->base_s) in.Refuse("max_s", "is less than base_s");
  in.RefuseUnknown();
}

void ReadBudget(const json& object, RetryBudgetConfig* budget, Status* status) {
  Reader in(object, "budget.", status);
  in.Number("share", &budget->share, 0.0, 10.0);
  in.Number("min_per_s", &budget->min_per_s, 0.0, kMany);
  in.Number("capacity", &budget->capacity, 0.0, kMany);
  in.RefuseUnknown();
}

bool IsHashKey(std::string_view name) {
  constexpr std::string_view kReserved = "grpc-";
  constexpr std::string_view kBinary = "-bin";
  if (name.empty() || name.substr(0, kReserved.size()) == kReserved) return false;
  if (name.size() >= kBinary.size() && name.substr(name.size() - kBinary.size()) == kBinary) return false;
  return name.find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyz_.-") == std::string_view::npos;
}

void ReadChoice(Reader& in, Policy* policy) {
  const std::string choice = in.Text("choice", ChoiceName(policy->choice));
  const auto* const known =
      std::find_if(std::begin(kChoices), std::end(kChoices), [&](Choice one) { return choice == ChoiceName(one); });
  if (known != std::end(kChoices)) {
    policy->choice = *known;
  } else {
    in.Wrong("choice", "'power_of_two', 'least_latency' or 'consistent_hash'", choice);
  }
  policy->hash_key = in.Text("hash_key", "");
  if (policy->choice != Choice::kConsistentHash) {
    if (!policy->hash_key.empty()) in.Refuse("hash_key", "means something only with choice 'consistent_hash'");
  } else if (policy->hash_key.empty()) {
    in.Refuse("hash_key", "is required with choice 'consistent_hash': the name of the metadata to hash");
  } else if (!IsHashKey(policy->hash_key)) {
    in.Wrong("hash_key", "a name of metadata with text: lower-case letters, digits and `_ . -`, neither grpc- nor -bin",
             policy->hash_key);
  }
}

void ReadLabels(Reader& in, Policy* policy) {
  const json labels = in.Nested("prefer_labels");
  if (labels.size() > kMaxLabels) in.Refuse("prefer_labels", "has more than 256 entries");
  for (const auto& [name, value] : labels.items()) {
    if (name.empty() || !value.is_string()) {
      in.Wrong("prefer_labels", "an object of names and texts", labels);
      return;
    }
    policy->prefer_labels.emplace_back(name, value.get<std::string>());
  }
}

void ReadHedge(Reader& in, Policy* policy) {
  double hedge_after_s = 0.0;
  in.Number("hedge_after_s", &hedge_after_s, kShortestHedge, kHour);
  if (hedge_after_s > 0.0) policy->hedge_after_s = hedge_after_s;
}

}  // namespace

const char* ChoiceName(Choice choice) {
  switch (choice) {
    case Choice::kPowerOfTwo: return "power_of_two";
    case Choice::kLeastLatency: return "least_latency";
    case Choice::kConsistentHash: return "consistent_hash";
  }
  return "";
}

Result<Policy> ParsePolicy(const json& object) {
  if (!object.is_object()) {
    return Status(Code::kInvalidArgument, "the routing policy must be an object, not " + Shown(object));
  }
  Status status;
  Policy policy;
  Reader in(object, "", &status);
  ReadChoice(in, &policy);
  ReadLabels(in, &policy);
  ReadOutliers(in.Nested("outliers"), &policy.outliers, &status);
  ReadBudget(in.Nested("budget"), &policy.budget, &status);
  in.Whole("max_attempts", &policy.max_attempts, 1, kMany);
  in.Number("backoff_s", &policy.backoff_s, 0.0, kHour);
  in.Number("backoff_max_s", &policy.backoff_max_s, 0.0, kHour);
  if (policy.backoff_max_s < policy.backoff_s) in.Refuse("backoff_max_s", "is less than backoff_s");
  in.Number("unknown_model_wait_s", &policy.unknown_model_wait_s, 0.0, kDay);
  in.Whole("max_in_flight_per_endpoint", &policy.max_in_flight_per_endpoint, 0, kMany);
  in.Whole("max_queued", &policy.max_queued, 0, kMany);
  ReadHedge(in, &policy);
  in.Number("suspect_after_s", &policy.suspect_after_s, kShortest, kHour);
  in.Number("probe_timeout_s", &policy.probe_timeout_s, kShortest, kHour);
  in.Whole("probes", &policy.probes, 1, 100);
  in.RefuseUnknown();
  if (!status.ok()) return status;
  return policy;
}

}  // namespace mesh::routing
