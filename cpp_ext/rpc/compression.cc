#include "rpc/compression.h"

#include <zlib.h>

#include <algorithm>
#include <limits>
#include <utility>

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

Decompression::Decompression(Encoding encoding, Slice packed, std::size_t limit, ReceiveBudget* budget)
    : encoding_(encoding),
      packed_(std::move(packed)),
      limit_(limit),
      stream_(std::make_unique<z_stream_s>()),
      out_(budget) {
  if (inflateInit2(stream_.get(), WindowBits(encoding)) != Z_OK) stream_ = nullptr;
}

Decompression::~Decompression() {
  if (stream_ != nullptr) inflateEnd(stream_.get());
}

void Decompression::Feed(std::size_t most) {
  if (stream_->avail_in > 0) return;
  const std::size_t step = std::min(std::min(most, kZlibStep), packed_.size() - fed_);
  stream_->next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed_.data() + fed_));
  stream_->avail_in = static_cast<uInt>(step);
  fed_ += step;
}

Status Decompression::MakeRoom() {
  if (filled_ > limit_) return TooLarge(limit_);
  // One byte more than the limit, to tell "exactly as large" from "larger".
  const ReceiveBuffer::Outcome grown = out_.Grow(filled_ + 1, limit_ + 1);
  return grown == ReceiveBuffer::Outcome::kOk ? Status() : out_.Failure(grown, "a message that is being decompressed");
}

Status Decompression::Damaged() const {
  return {Code::kInternal, "a received message is not valid " + std::string(EncodingName(encoding_))};
}

Result<bool> Decompression::Run(std::size_t work) {
  if (stream_ == nullptr) return Status(Code::kResourceExhausted, "no memory to decompress a message");
  work_done_ = 0;
  while (work_done_ < work) {
    const std::size_t left = work - work_done_;
    Status room = MakeRoom();
    if (!room.ok()) return room;
    Feed(left);
    const std::size_t before_in = stream_->avail_in;
    const std::size_t before_out = std::min({out_.capacity() - filled_, left, kZlibStep});
    stream_->next_out = reinterpret_cast<Bytef*>(out_.data() + filled_);
    stream_->avail_out = static_cast<uInt>(before_out);
    const int outcome = inflate(stream_.get(), Z_NO_FLUSH);
    const std::size_t produced = before_out - stream_->avail_out;
    filled_ += produced;
    work_done_ += produced + before_in - stream_->avail_in;
    if (outcome == Z_OK) continue;
    if (filled_ > limit_) return TooLarge(limit_);
    if (outcome != Z_STREAM_END || stream_->avail_in != 0 || fed_ != packed_.size()) return Damaged();
    return true;
  }
  return false;
}

Result<Slice> Decompress(Encoding encoding, std::string_view bytes, std::size_t limit) {
  Decompression decompression(encoding, Slice(nullptr, bytes.data(), bytes.size()), limit, nullptr);
  Result<bool> done = decompression.Run(std::numeric_limits<std::size_t>::max());
  if (!done.ok()) return done.status();
  return decompression.Take();
}

}  // namespace mesh::rpc
