#include "ingress/contents.h"

#include <cstring>
#include <limits>
#include <protozero/exception.hpp>
#include <protozero/pbf_reader.hpp>

#include "common/protobuf.h"

namespace mesh::ingress {
namespace {

using protozero::pbf_reader;
using protozero::pbf_wire_type;

struct Bad {
  Status status;
};

// Collects the elements of one input.
class Collector {
 public:
  Collector(triton::DataType type, const std::string& input, const std::string& model)
      : type_(type), input_(input), model_(model) {}

  // The contents are of `type`; INVALID_ARGUMENT unless that is the input's datatype and no other came before.
  void Expect(triton::DataType type) {
    if (seen_ != TRITONSERVER_TYPE_INVALID && seen_ != type) {
      throw Bad{{Code::kInvalidArgument, "unexpected explicit tensor data for input tensor '" + input_ +
                                             "' for model '" + model_ + "', binary data was already supplied."}};
    }
    seen_ = type;
    if (type == type_) return;
    throw Bad{{Code::kInvalidArgument, "unexpected explicit tensor data for input tensor '" + input_ + "' for model '" +
                                           model_ + "' of type '" + triton::DataTypeName(type) +
                                           "', expected datatype '" + triton::DataTypeName(type_) + "'"}};
  }

  // Of the types that share a field of the message, the input's own; else the field's widest.
  [[nodiscard]] triton::DataType OneOf(triton::DataType small, triton::DataType middle, triton::DataType wide) const {
    return type_ == small || type_ == middle ? type_ : wide;
  }

  template <typename T>
  void Add(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    bytes_.append(raw, sizeof(T));
  }

  template <typename Narrow, typename Wide>
  void AddNarrow(Wide value) {
    if (value < static_cast<Wide>(std::numeric_limits<Narrow>::min()) ||
        value > static_cast<Wide>(std::numeric_limits<Narrow>::max())) {
      throw Bad{{Code::kInvalidArgument, "value " + std::to_string(value) + " in input tensor '" + input_ +
                                             "' for model '" + model_ + "' does not fit datatype '" +
                                             triton::DataTypeName(type_) + "'"}};
    }
    Add(static_cast<Narrow>(value));
  }

  void AddInt(std::int32_t value) {
    if (type_ == TRITONSERVER_TYPE_INT8) return AddNarrow<std::int8_t>(value);
    if (type_ == TRITONSERVER_TYPE_INT16) return AddNarrow<std::int16_t>(value);
    Add(value);
  }

  void AddUint(std::uint32_t value) {
    if (type_ == TRITONSERVER_TYPE_UINT8) return AddNarrow<std::uint8_t>(value);
    if (type_ == TRITONSERVER_TYPE_UINT16) return AddNarrow<std::uint16_t>(value);
    Add(value);
  }

  void AddBytes(const protozero::data_view& element) {
    Add(static_cast<std::uint32_t>(element.size()));
    bytes_.append(element.data(), element.size());
  }

  std::string Take() { return std::move(bytes_); }

 private:
  triton::DataType type_;
  triton::DataType seen_ = TRITONSERVER_TYPE_INVALID;
  const std::string& input_;
  const std::string& model_;
  std::string bytes_;
};

// Reads a repeated field, packed or not.
template <typename Packed, typename One, typename Each>
void ReadRepeated(pbf_reader* reader, Collector* out, triton::DataType type, Packed packed, One one, Each each) {
  if (reader->wire_type() != pbf_wire_type::length_delimited) {
    out->Expect(type);
    each(one(reader));
    return;
  }
  const auto range = packed(reader);
  if (range.begin() == range.end()) return;
  out->Expect(type);
  for (auto it = range.begin(); it != range.end(); ++it) each(*it);
}

// True when the field's wire type is `single` or the packed form of it.
bool Fits(const pbf_reader& reader, pbf_wire_type single) {
  return reader.wire_type() == single || reader.wire_type() == pbf_wire_type::length_delimited;
}

#define MESH_READ_CONTENTS(getter, type, each)                                    \
  ReadRepeated(                                                                   \
      &reader, out, type, [](pbf_reader* r) { return r->get_packed_##getter(); }, \
      [](pbf_reader* r) { return r->get_##getter(); }, each)

void ReadContents(pbf_reader reader, Collector* out) {
  while (reader.next()) {
    const bool varint = Fits(reader, pbf_wire_type::varint);
    const auto add = [out](auto value) { out->Add(value); };
    if (reader.tag() == 1 && varint) {
      ReadRepeated(
          &reader, out, TRITONSERVER_TYPE_BOOL, [](pbf_reader* r) { return r->get_packed_bool(); },
          [](pbf_reader* r) { return ReadBool(r); }, [out](bool v) { out->Add(static_cast<std::uint8_t>(v)); });
    } else if (reader.tag() == 2 && varint) {
      const auto type = out->OneOf(TRITONSERVER_TYPE_INT8, TRITONSERVER_TYPE_INT16, TRITONSERVER_TYPE_INT32);
      MESH_READ_CONTENTS(int32, type, [out](std::int32_t v) { out->AddInt(v); });
    } else if (reader.tag() == 3 && varint) {
      MESH_READ_CONTENTS(int64, TRITONSERVER_TYPE_INT64, add);
    } else if (reader.tag() == 4 && varint) {
      const auto type = out->OneOf(TRITONSERVER_TYPE_UINT8, TRITONSERVER_TYPE_UINT16, TRITONSERVER_TYPE_UINT32);
      MESH_READ_CONTENTS(uint32, type, [out](std::uint32_t v) { out->AddUint(v); });
    } else if (reader.tag() == 5 && varint) {
      MESH_READ_CONTENTS(uint64, TRITONSERVER_TYPE_UINT64, add);
    } else if (reader.tag() == 6 && Fits(reader, pbf_wire_type::fixed32)) {
      MESH_READ_CONTENTS(float, TRITONSERVER_TYPE_FP32, add);
    } else if (reader.tag() == 7 && Fits(reader, pbf_wire_type::fixed64)) {
      MESH_READ_CONTENTS(double, TRITONSERVER_TYPE_FP64, add);
    } else if (reader.tag() == 8 && reader.wire_type() == pbf_wire_type::length_delimited) {
      out->Expect(TRITONSERVER_TYPE_BYTES);
      out->AddBytes(reader.get_view());
    } else {
      reader.skip();
    }
  }
}

#undef MESH_READ_CONTENTS

}  // namespace

Result<std::string> ContentsToBytes(std::string_view contents, triton::DataType type, const std::string& input,
                                    const std::string& model) {
  Collector collector(type, input, model);
  try {
    ReadContents(pbf_reader(contents.data(), contents.size()), &collector);
  } catch (const Bad& bad) {
    return bad.status;
  } catch (const protozero::exception& error) {
    return Status(Code::kInvalidArgument, "the contents of input tensor '" + input +
                                              "' are not a valid inference.InferTensorContents: " + error.what());
  }
  return collector.Take();
}

}  // namespace mesh::ingress
