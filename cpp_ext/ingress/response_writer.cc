#include "ingress/response_writer.h"

#include <charconv>
#include <cstring>
#include <limits>
#include <protozero/pbf_writer.hpp>
#include <protozero/varint.hpp>
#include <string>

#include "common/block_pool.h"

namespace mesh::ingress {
namespace {

// Tags of fields 1, 2, 3, 5 and 6 of the response and 1, 2, 3 of an output: all length-delimited.
constexpr char Tag(int field) { return static_cast<char>((field << 3) | 2); }

std::size_t VarintSize(std::uint64_t value) { return static_cast<std::size_t>(protozero::length_of_varint(value)); }

std::size_t FieldSize(std::size_t size) { return 1 + VarintSize(size) + size; }

std::size_t ShapeSize(const OutputPart& output) {
  std::size_t size = 0;
  for (std::size_t i = 0; i < output.dims; ++i) size += VarintSize(static_cast<std::uint64_t>(output.shape[i]));
  return size;
}

std::size_t OutputSize(const OutputPart& output) {
  const std::size_t shape = ShapeSize(output);
  return FieldSize(output.name.size()) + FieldSize(output.datatype.size()) + (output.dims > 0 ? FieldSize(shape) : 0);
}

// Writes into memory that was measured before.
class Cursor {
 public:
  explicit Cursor(char* at) : at_(at) {}
  [[nodiscard]] char* at() const { return at_; }

  void Varint(std::uint64_t value) { at_ += protozero::add_varint_to_buffer(at_, value); }
  void Bytes(std::string_view bytes) {
    if (!bytes.empty()) std::memcpy(at_, bytes.data(), bytes.size());
    at_ += bytes.size();
  }
  void Head(int field, std::size_t size) {
    *at_++ = Tag(field);
    Varint(size);
  }
  void Field(int field, std::string_view bytes) {
    Head(field, bytes.size());
    Bytes(bytes);
  }

 private:
  char* at_;
};

void WriteOutput(const OutputPart& output, Cursor* out) {
  out->Head(5, OutputSize(output));
  out->Field(1, output.name);
  out->Field(2, output.datatype);
  if (output.dims == 0) return;
  out->Head(3, ShapeSize(output));
  for (std::size_t i = 0; i < output.dims; ++i) out->Varint(static_cast<std::uint64_t>(output.shape[i]));
}

// Exact: the length of a wrapped message is written before it.
struct Measure {
  std::size_t total = 0;   // of the message
  std::size_t copied = 0;  // of what is written into our own memory
};

Measure MeasureAll(const ResponseParts& parts, std::string_view version) {
  Measure measure;
  measure.copied = FieldSize(parts.model_name.size()) + FieldSize(version.size()) +
                   (parts.id.empty() ? 0 : FieldSize(parts.id.size())) + parts.parameters.size();
  measure.total = measure.copied;
  for (const OutputPart& output : parts.outputs) {
    const std::size_t head = FieldSize(OutputSize(output)) + 1 + VarintSize(output.data.size());
    measure.copied += head + (output.data.size() <= kCopyBytes ? output.data.size() : 0);
    measure.total += head + output.data.size();
  }
  return measure;
}

// Our own memory of `size` bytes: the scratch, or the heap.
Scratch Memory(const Scratch& scratch, std::size_t size) {
  if (size <= scratch.size) return scratch;
  auto* block = static_cast<char*>(AllocateBlock(size));
  const std::shared_ptr<char> memory(
      block, [size](char* held) { FreeBlock(held, size); }, BlockAllocator<char>());
  return {memory, block, size};
}

// The raw outputs; each run of our own bytes becomes one slice, large outputs are slices of their own.
void WriteRaw(const ResponseParts& parts, const Scratch& memory, Cursor* out, rpc::Message* message) {
  char* run = memory.data;
  const auto end_run = [&] {
    message->Append(rpc::Slice(memory.owner, run, static_cast<std::size_t>(out->at() - run)));
    run = out->at();
  };
  for (const OutputPart& output : parts.outputs) {
    if (output.data.size() <= kCopyBytes) {
      out->Field(6, output.data);
      continue;
    }
    out->Head(6, output.data.size());
    end_run();
    message->Append(output.owned);
  }
  end_run();
}

}  // namespace

Result<rpc::Message> WriteResponse(const ResponseParts& parts, const Scratch& scratch) {
  char digits[24];
  const char* digits_end = std::to_chars(digits, digits + sizeof(digits), parts.model_version).ptr;
  const std::string_view version(digits, static_cast<std::size_t>(digits_end - digits));
  Measure measure = MeasureAll(parts, version);
  const std::size_t wrapped = measure.total;
  if (parts.streamed) {
    measure.copied += 1 + VarintSize(wrapped);
    measure.total += 1 + VarintSize(wrapped);
  }
  if (measure.total > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    return Status(Code::kInvalidArgument, "Response has byte size " + std::to_string(measure.total) +
                                              " which exceeds gRPC's byte size limit 2147483647.");
  }
  const Scratch memory = Memory(scratch, measure.copied);
  Cursor out(memory.data);
  if (parts.streamed) out.Head(2, wrapped);
  out.Field(1, parts.model_name);
  out.Field(2, version);
  if (!parts.id.empty()) out.Field(3, parts.id);
  out.Bytes(parts.parameters);
  for (const OutputPart& output : parts.outputs) WriteOutput(output, &out);
  rpc::Message message;
  WriteRaw(parts, memory, &out, &message);
  return message;
}

Status AppendParameters(const triton::InferResponse& response, std::string* encoded) {
  const std::uint32_t count = response.parameter_count();
  for (std::uint32_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    const void* value = nullptr;
    TRITONSERVER_ParameterType type = TRITONSERVER_PARAMETER_STRING;
    if (Status status = response.Parameter(i, &name, &type, &value); !status.ok()) return status;
    protozero::pbf_writer out(*encoded);
    protozero::pbf_writer entry(out, 4);
    entry.add_string(1, name);
    protozero::pbf_writer parameter(entry, 2);
    switch (type) {
      case TRITONSERVER_PARAMETER_BOOL: parameter.add_bool(1, *static_cast<const bool*>(value)); break;
      case TRITONSERVER_PARAMETER_INT: parameter.add_int64(2, *static_cast<const std::int64_t*>(value)); break;
      case TRITONSERVER_PARAMETER_STRING: parameter.add_string(3, static_cast<const char*>(value)); break;
      case TRITONSERVER_PARAMETER_DOUBLE: parameter.add_double(4, *static_cast<const double*>(value)); break;
      case TRITONSERVER_PARAMETER_BYTES:
        return {Code::kUnimplemented, "response parameter '" + std::string(name) +
                                          "' holds bytes, which the protocol "
                                          "cannot carry"};
    }
  }
  return {};
}

}  // namespace mesh::ingress
