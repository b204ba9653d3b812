// Answers what it is sent, or what its input `what` tells it to.
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "mesh/deployment.h"

namespace {

class Echo final : public mesh::Deployment {
 public:
  explicit Echo(const mesh::Context& context) : model_(context.Triton("model")) {
    if (context.args().Flag("fail", false)) throw std::runtime_error("told to fail");
    static_cast<void>(context.args().Number("factor", 1.0));
  }

  [[nodiscard]] mesh::Signature Describe() const override {
    return mesh::Signature().Input("x", "FP32", {-1}).Output("y", "FP32", {-1, 2}).Streamed();
  }

  void Infer(mesh::Request request, mesh::Answer answer) override {
    const std::string what(request.id());
    if (what == "throw") throw mesh::Error(mesh::Code::kNotFound, "nothing here");
    if (what == "drop") return;
    if (what == "send") answer.Send();
    if (what == "later") {
      std::thread([request, answer]() mutable { Reply(request, &answer); }).join();
      return;
    }
    if (what == "ask") {
      const auto x = request.Input("x").Values<float>();
      const mesh::Reply reply = model_.Infer(request, {mesh::Input("x", x.data(), {2})});
      answer.Add("y", reply.Output("y"));
      return answer.Finish();
    }
    Reply(request, &answer);
  }

  void Health() override { throw mesh::Error(mesh::Code::kUnavailable, "ill"); }

  void Reconfigure(const mesh::Settings& config) override {
    if (config.Integer("limit", 0) > 5) throw std::invalid_argument("a limit above 5");
  }

 private:
  static void Reply(const mesh::Request& request, mesh::Answer* answer) {
    const auto x = request.Input("x").Values<float>();
    answer->Add("y", {static_cast<std::int64_t>(x.size())}, x.data());
    answer->Finish();
  }

  mesh::Callee model_;
};

}  // namespace

MESH_DEPLOYMENT(Echo)
