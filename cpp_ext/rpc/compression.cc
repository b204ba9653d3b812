#include "rpc/compression.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

namespace mesh::rpc {
namespace {

constexpr std::size_t kFirstOutput = 16UL * 1024;
constexpr std::size_t kZlibStep = 1UL << 30;  // zlib counts in 32 bits
constexpr int kWindowBits = 15;
constexpr int kGzipFormat = 16;

int WindowBits(Encoding encoding) { return encoding == Encoding::kGzip ? kWindowBits + kGzipFormat : kWindowBits; }

std::string_view TrimSpaces(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

Status TooLarge(std::size_t limit) {
  return {Code::kResourceExhausted, "a received message is larger than " + std::to_string(limit) +
                                        " bytes after decompression, which is the limit"};
}

class Inflater {
 public:
  explicit Inflater(Encoding encoding) { ready_ = inflateInit2(&stream_, WindowBits(encoding)) == Z_OK; }
  ~Inflater() {
    if (ready_) inflateEnd(&stream_);
  }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  [[nodiscard]] bool ready() const { return ready_; }
  z_stream* operator->() { return &stream_; }
  z_stream* get() { return &stream_; }

 private:
  z_stream stream_{};
  bool ready_ = false;
};

class Deflater {
 public:
  explicit Deflater(Encoding encoding) {
    ready_ =
        deflateInit2(&stream_, Z_DEFAULT_COMPRESSION, Z_DEFLATED, WindowBits(encoding), 8, Z_DEFAULT_STRATEGY) == Z_OK;
  }
  ~Deflater() {
    if (ready_) deflateEnd(&stream_);
  }
  Deflater(const Deflater&) = delete;
  Deflater& operator=(const Deflater&) = delete;
  [[nodiscard]] bool ready() const { return ready_; }

  // Compresses `input` to the end of `out`; `flush` is Z_NO_FLUSH or Z_FINISH.
  void Add(std::string_view input, int flush, std::string* out) {
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));
    stream_.avail_in = static_cast<uInt>(input.size());
    do {
      const std::size_t filled = out->size();
      out->resize(filled + kFirstOutput);
      stream_.next_out = reinterpret_cast<Bytef*>(out->data() + filled);
      stream_.avail_out = static_cast<uInt>(kFirstOutput);
      deflate(&stream_, flush);  // cannot fail with a valid stream
      out->resize(out->size() - stream_.avail_out);
    } while (stream_.avail_out == 0);
  }

 private:
  z_stream stream_{};
  bool ready_ = false;
};

}  // namespace

std::optional<Encoding> ParseEncoding(std::string_view name) {
  if (name == "identity" || name.empty()) return Encoding::kIdentity;
  if (name == "gzip") return Encoding::kGzip;
  if (name == "deflate") return Encoding::kDeflate;
  return std::nullopt;
}

std::string_view EncodingName(Encoding encoding) {
  switch (encoding) {
    case Encoding::kIdentity: return "identity";
    case Encoding::kGzip: return "gzip";
    case Encoding::kDeflate: return "deflate";
  }
  return "identity";
}

bool Accepts(std::string_view accept_encoding, Encoding encoding) {
  if (encoding == Encoding::kIdentity) return true;
  while (!accept_encoding.empty()) {
    const std::size_t comma = std::min(accept_encoding.find(','), accept_encoding.size());
    if (TrimSpaces(accept_encoding.substr(0, comma)) == EncodingName(encoding)) return true;
    accept_encoding.remove_prefix(std::min(comma + 1, accept_encoding.size()));
  }
  return false;
}

Result<std::string> Compress(Encoding encoding, const Message& message) {
  Deflater deflater(encoding);
  if (!deflater.ready()) return Status(Code::kResourceExhausted, "no memory to compress a message");
  std::string out;
  for (const Slice& slice : message.slices()) {
    for (std::size_t at = 0; at < slice.size(); at += kZlibStep) {
      deflater.Add(slice.view().substr(at, kZlibStep), Z_NO_FLUSH, &out);
    }
  }
  deflater.Add({}, Z_FINISH, &out);
  return out;
}

Result<Slice> Decompress(Encoding encoding, std::string_view bytes, std::size_t limit) {
  Inflater inflater(encoding);
  if (!inflater.ready()) return Status(Code::kResourceExhausted, "no memory to decompress a message");
  std::string out;
  std::size_t filled = 0;
  int outcome = Z_OK;
  while (outcome == Z_OK) {
    if (inflater->avail_in == 0) {
      const std::string_view step = bytes.substr(0, kZlibStep);
      bytes.remove_prefix(step.size());
      inflater->next_in = reinterpret_cast<Bytef*>(const_cast<char*>(step.data()));
      inflater->avail_in = static_cast<uInt>(step.size());
    }
    if (filled > limit) return TooLarge(limit);
    // One byte more than the limit, to tell "exactly as large" from "larger".
    if (filled == out.size()) out.resize(std::min(std::max(filled * 2, kFirstOutput), limit + 1));
    const std::size_t room = std::min(out.size() - filled, kZlibStep);
    inflater->next_out = reinterpret_cast<Bytef*>(out.data() + filled);
    inflater->avail_out = static_cast<uInt>(room);
    outcome = inflate(inflater.get(), Z_NO_FLUSH);
    filled += room - inflater->avail_out;
  }
  if (filled > limit) return TooLarge(limit);
  if (outcome != Z_STREAM_END || inflater->avail_in != 0 || !bytes.empty()) {
    return Status(Code::kInternal, "a received message is not valid " + std::string(EncodingName(encoding)));
  }
  out.resize(filled);
  return Slice::Own(std::move(out));
}

}  // namespace mesh::rpc
