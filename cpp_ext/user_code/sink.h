// Texts that cross the interface.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"
#include "mesh/abi.h"

namespace mesh::user {

// Appends what it is given to `text`.
inline MeshSink Into(std::string* text) {
  return {text, [](void* self, const char* data, size_t size) { static_cast<std::string*>(self)->append(data, size); }};
}

inline void Put(MeshSink sink, std::string_view text) { sink.put(sink.self, text.data(), text.size()); }

// A code that the user's code gave; one outside of gRPC's table is INTERNAL.
inline Code CodeOf(std::int32_t code) {
  return code >= 0 && code <= static_cast<std::int32_t>(Code::kUnauthenticated) ? static_cast<Code>(code)
                                                                                : Code::kInternal;
}

// The code of `status`, whose words go to `error`.
inline std::int32_t Tell(const Status& status, MeshSink error) {
  if (!status.ok()) Put(error, status.message());
  return static_cast<std::int32_t>(status.code());
}

}  // namespace mesh::user
