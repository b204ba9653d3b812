// What reads bytes of strangers, as functions of bytes: libFuzzer (fuzzer.cc) and a plain test (fuzz_test.cc) call the
// same ones, with the same seeds.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace mesh::fuzz {

// A reader took or made what it must not.
struct Broken : std::logic_error {
  using std::logic_error::logic_error;
};

inline void Require(bool holds, const char* what) {
  if (!holds) throw Broken(what);
}

// The view lies within `bytes`; empty ones may lie anywhere.
inline void RequireInside(std::string_view view, std::string_view bytes, const char* what) {
  const char* const end = bytes.data() + bytes.size();
  Require(view.empty() || (view.data() >= bytes.data() && view.data() + view.size() <= end), what);
}

// Each reads any bytes, and throws Broken when what it read breaks a promise of the reader.

// Byte 0: grpc-encoding, byte 1: how the rest is cut, the rest: the DATA of a stream.
void GrpcStream(std::string_view input);
// Lines of "name: value", as HPACK would give them.
void GrpcHeaders(std::string_view input);
// A message to ModelInfer and, of the same bytes, to the smaller methods.
void InferRequest(std::string_view input);
// Byte 0: how the rest is cut, the rest: what an HTTP/1 client sends.
void HttpConnection(std::string_view input);
// Two bytes: the size of the JSON, little-endian, the rest: the body of an inference request.
void RestInfer(std::string_view input);
// Byte 0: which message, the rest: Triton's JSON, of which clients write parts.
void JsonAnswer(std::string_view input);

struct Target {
  const char* name;  // also of its folder of seeds
  void (*run)(std::string_view input);
};

inline constexpr Target kTargets[] = {{"grpc_stream", GrpcStream},     {"grpc_headers", GrpcHeaders},
                                      {"infer_request", InferRequest}, {"http_connection", HttpConnection},
                                      {"rest_infer", RestInfer},       {"json_answer", JsonAnswer}};

}  // namespace mesh::fuzz
