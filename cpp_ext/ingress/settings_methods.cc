#include "ingress/settings_methods.h"

#include <protozero/pbf_writer.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "ingress/control_method.h"
#include "ingress/message_reading.h"

namespace mesh::ingress {
namespace {

using protozero::pbf_reader;
using protozero::pbf_wire_type;
using protozero::pbf_writer;
using protozero::tag_and_type;

// An entry of a map of messages: `read` takes the encoded value; an entry without one is a message without fields.
template <typename Values, typename Read>
void ReadEntry(pbf_reader reader, Values* values, Read read) {
  std::string key;
  typename Values::mapped_type value;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, pbf_wire_type::length_delimited): key = ReadText(&reader, "setting"); break;
      case tag_and_type(2, pbf_wire_type::length_delimited): read(reader.get_message(), &value); break;
      default: reader.skip();
    }
  }
  (*values)[key] = std::move(value);
}

// ---------------------------------------------------------------- traces

void ReadTraceValue(pbf_reader reader, std::vector<std::string>* texts) {
  while (reader.next()) {
    if (reader.tag_and_type() == tag_and_type(1, pbf_wire_type::length_delimited)) {
      texts->emplace_back(ReadText(&reader, "value"));
    } else {
      reader.skip();
    }
  }
}

// inference.TraceSettingRequest
struct TraceRequest {
  std::string model;
  TraceSettingValues settings;
};

Result<TraceRequest> ParseTrace(std::string_view bytes) {
  TraceRequest parsed;
  Status status = ParseGuarded("TraceSettingRequest", [&] {
    pbf_reader reader = ReaderOf(bytes);
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case tag_and_type(1, pbf_wire_type::length_delimited):
          ReadEntry(reader.get_message(), &parsed.settings, ReadTraceValue);
          break;
        case tag_and_type(2, pbf_wire_type::length_delimited): parsed.model = ReadText(&reader, "model_name"); break;
        default: reader.skip();
      }
    }
  });
  if (!status.ok()) return status;
  return parsed;
}

std::string EncodeTrace(const TraceSettingValues& settings) {
  std::string encoded;
  pbf_writer out(encoded);
  for (const auto& [name, texts] : settings) {
    std::string value;
    for (const std::string& text : texts) pbf_writer(value).add_string(1, text);
    pbf_writer entry(out, 1);
    entry.add_string(1, name);
    entry.add_message(2, value);
  }
  return encoded;
}

Result<std::string> Trace(const triton::Server& triton, TraceSettings& traces, std::string_view request) {
  Result<TraceRequest> parsed = ParseTrace(request);
  if (!parsed.ok()) return parsed.status();
  const auto& [model, settings] = parsed.value();
  if (!model.empty()) {
    Result<bool> ready = triton.IsModelReady(model);
    if (!ready.ok()) return ready.status();
    if (!ready.value()) return Status(Code::kInvalidArgument, "Request for unknown model : " + model);
  }
  if (!settings.empty()) {
    if (Status status = traces.Update(model, settings); !status.ok()) return status;
  }
  return EncodeTrace(traces.Describe(model));
}

// ---------------------------------------------------------------- the log

void ReadLogValue(pbf_reader reader, LogSettingValue* value) {
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, pbf_wire_type::varint): *value = ReadBool(&reader); break;
      case tag_and_type(2, pbf_wire_type::varint): *value = reader.get_uint32(); break;
      case tag_and_type(3, pbf_wire_type::length_delimited): *value = std::string(ReadText(&reader, "value")); break;
      default: reader.skip();
    }
  }
}

// inference.LogSettingsRequest
Result<LogSettingValues> ParseLog(std::string_view bytes) {
  LogSettingValues settings;
  Status status = ParseGuarded("LogSettingsRequest", [&] {
    pbf_reader reader = ReaderOf(bytes);
    while (reader.next()) {
      if (reader.tag_and_type() == tag_and_type(1, pbf_wire_type::length_delimited)) {
        ReadEntry(reader.get_message(), &settings, ReadLogValue);
      } else {
        reader.skip();
      }
    }
  });
  if (!status.ok()) return status;
  return settings;
}

// The value is part of a oneof, so a default is written too.
struct LogValueWriter {
  pbf_writer out;
  void operator()(std::monostate /*none*/) const {}
  void operator()(bool value) { out.add_bool(1, value); }
  void operator()(std::uint32_t value) { out.add_uint32(2, value); }
  void operator()(const std::string& value) { out.add_string(3, value); }
};

std::string EncodeLog(const LogSettingValues& settings) {
  std::string encoded;
  pbf_writer out(encoded);
  for (const auto& [name, setting] : settings) {
    std::string value;
    std::visit(LogValueWriter{pbf_writer(value)}, setting);
    pbf_writer entry(out, 1);
    entry.add_string(1, name);
    entry.add_message(2, value);
  }
  return encoded;
}

Result<std::string> Log(LogSettings& logs, std::string_view request) {
  Result<LogSettingValues> settings = ParseLog(request);
  if (!settings.ok()) return settings.status();
  if (Status status = logs.Update(settings.value()); !status.ok()) return status;
  return EncodeLog(logs.Describe());
}

}  // namespace

void AddSettingsMethods(rpc::Server& server, metrics::Registry& registry, const triton::Server& triton,
                        TraceSettings& traces, LogSettings& logs) {
  AddControlMethod(server, registry, "TraceSetting",
                   [&](const rpc::ServerCall&, std::string_view request) { return Trace(triton, traces, request); });
  AddControlMethod(server, registry, "LogSettings",
                   [&](const rpc::ServerCall&, std::string_view request) { return Log(logs, request); });
}

}  // namespace mesh::ingress
