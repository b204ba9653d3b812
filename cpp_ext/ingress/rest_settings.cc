// The REST form of what changes a server while it runs: models, traces, the log. What they do is shared with gRPC.
#include <rapidjson/stringbuffer.h>

#include <array>
#include <chrono>
#include <list>

#include "ingress/failure.h"
#include "ingress/log_settings.h"
#include "ingress/repository_control.h"
#include "ingress/rest_answer.h"
#include "ingress/rest_json.h"
#include "ingress/rest_service.h"
#include "ingress/rest_tensor.h"
#include "ingress/trace_settings.h"
#include "rpc/wire.h"

namespace mesh::ingress {
namespace {

using std::chrono::steady_clock;

// In the order in which `tritonserver` writes them; clients may send any.
constexpr std::array<const char*, 6> kTraceNames{"trace_level",   "trace_rate", "trace_count",
                                                 "log_frequency", "trace_file", "trace_mode"};
constexpr std::array<const char*, 6> kLogNames{"log_file",  "log_info",          "log_warning",
                                               "log_error", "log_verbose_level", "log_format"};

void WriteText(const std::string& text, JsonWriter* out) {
  out->String(text.data(), static_cast<rapidjson::SizeType>(text.size()));
}

std::string Text(const rapidjson::StringBuffer& buffer) { return {buffer.GetString(), buffer.GetSize()}; }

// ---------------------------------------------------------------- models

// A call, and what its views point to.
struct HeldCall {
  JsonRoom room;
  Route route;
  rapidjson::Document json;
  std::list<std::string> files;
};

RepositoryParameter ReadFile(std::string_view name, std::string_view text, HeldCall* held) {
  std::optional<std::string> decoded = rpc::Base64Decode(text);
  if (!decoded.has_value()) {
    throw JsonFault{{Code::kInvalidArgument, "the content of '" + std::string(name) + "' is not base64"}};
  }
  held->files.push_back(*std::move(decoded));
  return {name, RepositoryParameter::Kind::kBytes, false, held->files.back()};
}

// The parameters of a load are texts, its files in base64.
void ReadLoad(const Json& parameters, HeldCall* held, RepositoryCall* call) {
  if (!parameters.IsObject()) throw JsonFault{{Code::kInternal, "attempt to get members for non-object"}};
  for (const auto& member : parameters.GetObject()) {
    const std::string_view name = AsString(member.name);
    const std::string_view text = AsString(member.value);
    if (name.substr(0, 5) == "file:") {
      call->parameters.push_back(ReadFile(name, text, held));
    } else {
      call->parameters.push_back({name, RepositoryParameter::Kind::kString, false, text});
    }
  }
}

void ReadUnload(const Json& parameters, RepositoryCall* call) {
  const Json* dependents = FindMember(parameters, "unload_dependents");
  if (dependents == nullptr) return;
  const bool wanted = Named("Unable to parse 'unload_dependents'", [&] { return AsBool(*dependents); });
  call->parameters.push_back({"unload_dependents", RepositoryParameter::Kind::kBool, wanted, {}});
}

Result<RepositoryCall> ReadCall(const Route& route, std::string_view body, JsonRoom room) {
  const auto held = std::make_shared<HeldCall>(HeldCall{std::move(room), route, {}, {}});
  RepositoryCall call;
  call.action =
      route.kind == Route::Kind::kRepositoryModelLoad ? RepositoryCall::Action::kLoad : RepositoryCall::Action::kUnload;
  call.repository = held->route.repository;
  call.model = held->route.model;
  Status status = ReadGuarded([&] {
    if (body.empty()) return;
    held->json = ParseJson(body);
    const Json* parameters = FindMember(held->json, "parameters");
    if (parameters == nullptr) return;
    if (call.action == RepositoryCall::Action::kLoad) return ReadLoad(*parameters, held.get(), &call);
    ReadUnload(*parameters, &call);
  });
  if (!status.ok()) return status;
  call.owner = held;
  return call;
}

// ---------------------------------------------------------------- traces

TraceSettingValues ReadTrace(const Json& request) {
  TraceSettingValues wanted;
  for (const char* name : kTraceNames) {
    const Json* value = FindMember(request, name);
    if (value == nullptr) continue;
    std::vector<std::string>& texts = wanted[name];
    if (value->IsNull()) continue;
    if (std::string_view(name) != "trace_level") {
      texts.emplace_back(AsString(*value));
      continue;
    }
    for (const Json& level : AsArray(*value).GetArray()) texts.emplace_back(AsString(level));
  }
  return wanted;
}

std::string WriteTrace(const TraceSettingValues& settings) {
  rapidjson::StringBuffer buffer;
  JsonWriter out(buffer);
  out.StartObject();
  for (const char* name : kTraceNames) {
    const auto found = settings.find(name);
    if (found == settings.end()) continue;
    const bool is_list = std::string_view(name) == "trace_level";
    out.Key(name);
    if (is_list) out.StartArray();
    for (const std::string& text : found->second) WriteText(text, &out);
    if (is_list) out.EndArray();
  }
  out.EndObject();
  return Text(buffer);
}

// ---------------------------------------------------------------- the log

LogSettingValue ReadLogValue(std::string_view name, const Json& value) {
  if (name == "log_verbose_level") return static_cast<std::uint32_t>(AsUint(value));
  if (name == "log_file" || name == "log_format") return std::string(AsString(value));
  return AsBool(value);
}

LogSettingValues ReadLog(const Json& request) {
  LogSettingValues wanted;
  for (const char* name : kLogNames) {
    const Json* value = FindMember(request, name);
    if (value == nullptr || value->IsNull()) continue;  // as it is
    wanted[name] = std::string_view(name) == "log_file" ? std::string() : ReadLogValue(name, *value);
  }
  return wanted;
}

struct LogValueWriter {
  JsonWriter& out;
  void operator()(std::monostate /*none*/) const { out.Null(); }
  void operator()(bool value) const { out.Bool(value); }
  void operator()(std::uint32_t value) const { out.Uint(value); }
  void operator()(const std::string& value) const { WriteText(value, &out); }
};

std::string WriteLog(const LogSettingValues& settings) {
  rapidjson::StringBuffer buffer;
  JsonWriter out(buffer);
  out.StartObject();
  for (const char* name : kLogNames) {
    const auto found = settings.find(name);
    if (found == settings.end()) continue;
    out.Key(name);
    std::visit(LogValueWriter{out}, found->second);
  }
  out.EndObject();
  return Text(buffer);
}

}  // namespace

void RestService::ControlModel(const Call& call, const Route& route, const Method& method) {
  const auto started = steady_clock::now();
  // A load may end after this service has.
  const auto answer = [call, started, counts = counts_.at(method.name)](const Status& status) {
    counts->Count(status.code(), steady_clock::now() - started);
    call->Respond(status.ok() ? http::Text(200, http::kJson, {}) : RestError(status));
  };
  const rpc::Slice body = call->request().TakeBody();
  Result<JsonRoom> room = JsonRoom::Take(*call, body.size());
  if (!room.ok()) return answer(room.status());
  Result<RepositoryCall> parsed = ReadCall(route, body.view(), std::move(room).value());
  if (!parsed.ok()) return answer(parsed.status());
  RepositoryControl& control = service_.repository();
  const auto ticket = control.Submit(std::move(parsed).value(), answer);
  if (ticket.has_value()) call->OnCancel([&control, ticket] { control.Withdraw(*ticket); });
}

Result<std::string> RestService::TraceSetting(http::Exchange& exchange, const Route& route) {
  TraceSettings& traces = service_.instruments()->traces;
  if (!route.model.empty()) {
    Result<bool> ready = triton_.IsModelReady(route.model);
    if (!ready.ok()) return ready.status();
    if (!ready.value()) return Status(Code::kInvalidArgument, "Request for unknown model : " + route.model);
  }
  if (exchange.request().method() == "POST") {
    const TraceSettingValues wanted = ReadTrace(ParseBody(exchange));
    if (!wanted.empty()) {
      if (Status status = traces.Update(route.model, wanted); !status.ok()) return status;
    }
  }
  return WriteTrace(traces.Describe(route.model));
}

Result<std::string> RestService::LogSettings(http::Exchange& exchange, const Route& /*route*/) {
  ingress::LogSettings& logs = service_.logs();
  if (exchange.request().method() == "POST") {
    if (Status status = logs.Update(ReadLog(ParseBody(exchange))); !status.ok()) return status;
  }
  return WriteLog(logs.Describe());
}

}  // namespace mesh::ingress
