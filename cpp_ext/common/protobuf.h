// What protozero leaves to be done.
#pragma once

#include <protozero/pbf_reader.hpp>

namespace mesh {

// The bool field at which `reader` stands. protozero's own get_bool() looks at a byte before it knows that there is
// one, and at the first byte only. Throws protozero's exceptions.
inline bool ReadBool(protozero::pbf_reader* reader) { return reader->get_uint64() != 0; }

}  // namespace mesh
