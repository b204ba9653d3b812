#include "ingress/repository_methods.h"

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "ingress/control_method.h"
#include "ingress/message_reading.h"

namespace mesh::ingress {
namespace {

using protozero::pbf_reader;
using protozero::pbf_wire_type;
using protozero::tag_and_type;
using Kind = RepositoryParameter::Kind;

constexpr std::size_t kMaxParameters = 10000;

// inference.ModelRepositoryParameter
void ReadValue(pbf_reader reader, RepositoryParameter* parameter) {
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, pbf_wire_type::varint):
        parameter->kind = Kind::kBool;
        parameter->bool_value = ReadBool(&reader);
        break;
      case tag_and_type(2, pbf_wire_type::varint):
        parameter->kind = Kind::kInt64;
        reader.skip();
        break;
      case tag_and_type(3, pbf_wire_type::length_delimited):
        parameter->kind = Kind::kString;
        parameter->text = ReadText(&reader, "string_param");
        break;
      case tag_and_type(4, pbf_wire_type::length_delimited):
        parameter->kind = Kind::kBytes;
        parameter->text = View(reader.get_view());
        break;
      default: reader.skip();
    }
  }
}

// An entry of the map: a key that comes again replaces what it had.
void ReadParameter(pbf_reader reader, std::vector<RepositoryParameter>* parameters) {
  RepositoryParameter parameter;
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case tag_and_type(1, pbf_wire_type::length_delimited): parameter.name = ReadText(&reader, "parameter key"); break;
      case tag_and_type(2, pbf_wire_type::length_delimited): ReadValue(reader.get_message(), &parameter); break;
      default: reader.skip();
    }
  }
  for (RepositoryParameter& known : *parameters) {
    if (known.name != parameter.name) continue;
    known = parameter;
    return;
  }
  if (parameters->size() >= kMaxParameters) {
    throw MessageFault{{Code::kInvalidArgument, "more than " + std::to_string(kMaxParameters) + " parameters"}};
  }
  parameters->push_back(parameter);
}

// inference.RepositoryModelLoadRequest and RepositoryModelUnloadRequest, which have the same fields.
Result<RepositoryCall> ParseCall(RepositoryCall::Action action, const rpc::Slice& request) {
  RepositoryCall call;
  call.action = action;
  Status status = ParseGuarded("RepositoryModelLoadRequest", [&] {
    pbf_reader reader = ReaderOf(request.view());
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case tag_and_type(1, pbf_wire_type::length_delimited):
          call.repository = ReadText(&reader, "repository_name");
          break;
        case tag_and_type(2, pbf_wire_type::length_delimited): call.model = ReadText(&reader, "model_name"); break;
        case tag_and_type(3, pbf_wire_type::length_delimited):
          ReadParameter(reader.get_message(), &call.parameters);
          break;
        default: reader.skip();
      }
    }
  });
  if (!status.ok()) return status;
  return call;
}

void AddMethod(rpc::Server& server, metrics::Registry& registry, RepositoryControl& control, const char* method,
               RepositoryCall::Action action) {
  AddWorkerMethod(server, registry, method,
                  [&control, action](const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request, Answer answer) {
                    auto held = std::make_shared<const rpc::Slice>(std::move(request));
                    Result<RepositoryCall> parsed = ParseCall(action, *held);
                    if (!parsed.ok()) return answer(parsed.status());
                    parsed.value().owner = held;
                    const auto ticket =
                        control.Submit(std::move(parsed).value(), [answer = std::move(answer)](const Status& status) {
                          answer(status.ok() ? Result<std::string>(std::string()) : Result<std::string>(status));
                        });
                    if (ticket.has_value()) call->OnCancel([&control, ticket] { control.Withdraw(*ticket); });
                  });
}

}  // namespace

void AddRepositoryMethods(rpc::Server& server, metrics::Registry& registry, RepositoryControl& control) {
  AddMethod(server, registry, control, "RepositoryModelLoad", RepositoryCall::Action::kLoad);
  AddMethod(server, registry, control, "RepositoryModelUnload", RepositoryCall::Action::kUnload);
}

}  // namespace mesh::ingress
