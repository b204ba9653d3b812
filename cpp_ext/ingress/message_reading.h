// What the readers of the service's messages share: views instead of copies, and one way to fail.
#pragma once

#include <protozero/pbf_reader.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "common/protobuf.h"
#include "common/status.h"
#include "ingress/text.h"

namespace mesh::ingress {

// Thrown inside of readers for what protozero does not check itself; ParseGuarded makes it a Status.
struct MessageFault {
  Status status;
};

inline protozero::pbf_reader ReaderOf(std::string_view bytes) { return {bytes.data(), bytes.size()}; }

inline std::string_view View(const protozero::data_view& view) { return {view.data(), view.size()}; }

// The string field at which `reader` stands; `what` names it.
inline std::string_view ReadText(protozero::pbf_reader* reader, const char* what) {
  const std::string_view text = View(reader->get_view());
  if (Status status = CheckText(text, what); !status.ok()) throw MessageFault{std::move(status)};
  return text;
}

// Runs a reader of inference.`type`. Bytes that are no such message are INTERNAL, the code by which every gRPC server
// says so.
template <typename Read>
Status ParseGuarded(const char* type, Read read) {
  try {
    read();
    return {};
  } catch (const MessageFault& fault) {
    return fault.status;
  } catch (const protozero::exception& error) {
    return {Code::kInternal,
            "Unable to parse request: not a valid inference." + std::string(type) + " (" + error.what() + ")"};
  }
}

}  // namespace mesh::ingress
