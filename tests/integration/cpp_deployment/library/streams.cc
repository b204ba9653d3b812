// Answers each request with as many messages as it asks for.
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "mesh/deployment.h"

namespace {

class Streams final : public mesh::Deployment {
 public:
  explicit Streams(const mesh::Context& /*context*/) {}

  [[nodiscard]] mesh::Signature Describe() const override {
    return mesh::Signature()
        .Input("count", "INT64", {1})
        .Input("bytes", "INT64", {1}, true)
        .Output("i", "INT64", {1})
        .Output("load", "UINT8", {-1})
        .Output("sent", "INT64", {1})
        .Streamed();
  }

  void Infer(mesh::Request request, mesh::Answer answer) override {
    const std::int64_t count = request.Input("count").Values<std::int64_t>()[0];
    if (count < 0) {  // how many were sent in all
      *answer.Output<std::int64_t>("sent", {1}).data() = sent_;
      return answer.Finish();
    }
    const std::int64_t bytes = request.Has("bytes") ? request.Input("bytes").Values<std::int64_t>()[0] : 0;
    for (std::int64_t i = 0; i < count; ++i) {
      *answer.Output<std::int64_t>("i", {1}).data() = i;
      if (bytes > 0) {
        for (std::uint8_t& byte : answer.Output<std::uint8_t>("load", {bytes})) byte = 7;
      }
      answer.Send();
      ++sent_;
    }
    if (count == 13) throw mesh::Error(mesh::Code::kOutOfRange, "thirteen is one too many");
    if (count == 17) throw std::runtime_error("seventeen breaks it");
    answer.Finish();
  }

 private:
  std::atomic<std::int64_t> sent_{0};
};

}  // namespace

MESH_DEPLOYMENT(Streams)
