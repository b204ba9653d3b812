// Asks models of its own Triton and other deployments.
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "mesh/deployment.h"

namespace {

using std::chrono::milliseconds;

class Asks final : public mesh::Deployment {
 public:
  explicit Asks(const mesh::Context& context)
      : echo_(context.Triton(context.args().Text("model", "echo"))),
        other_(context.Handle(context.args().Text("deployment", "scale"))) {
    if (context.args().Flag("warm_up", false)) {
      const std::vector<float> values{1, 2};
      static_cast<void>(echo_.Infer({mesh::Input("IN", values, {2})}));
    }
  }

  [[nodiscard]] mesh::Signature Describe() const override {
    return mesh::Signature()
        .Input("x", "FP32", {-1})
        .Input("how", "BYTES", {1})
        .Output("y", "FP32", {-1})
        .Output("told", "BYTES", {-1});
  }

  void Infer(mesh::Request request, mesh::Answer answer) override {
    const std::string how(request.Input("how").Texts().at(0));
    if (how == "async") return Later(std::move(request), std::move(answer));
    if (how == "about") return About(request, &answer);
    const mesh::TensorView x = request.Input("x");
    mesh::CallOptions options;
    if (how == "model in no time") options.timeout = milliseconds(20);
    if (how == "deployment in no time") options.timeout = milliseconds(50);
    options.run_once = how == "deployment once";
    const bool model = how.rfind("model", 0) == 0;
    const mesh::Reply reply = model ? echo_.Infer(request, {mesh::Input("IN", x)}, options)
                                    : other_.Infer(request, {mesh::Input("x", x)}, options);
    answer.Add("y", reply.Output(model ? "OUT" : "y"));
    answer.Finish();
  }

 private:
  // What the other deployment sees of a call.
  void About(const mesh::Request& request, mesh::Answer* answer) {
    const std::string what = mesh::PackTexts(std::vector<std::string>{"about"});
    mesh::CallOptions options;
    options.outputs = {"told"};
    const mesh::Input told("what", "BYTES", what.data(), what.size(), {1});
    const mesh::Reply reply = other_.Infer(request, {mesh::Input("x", request.Input("x")), told}, options);
    answer->Add("told", reply.Output("told"));
    answer->Finish();
  }

  void Later(mesh::Request request, mesh::Answer answer) {
    const mesh::Input x("IN", request.Input("x"));
    echo_.InferAsync(request, {x}, {}, [answer](const mesh::Outcome& outcome, const mesh::Reply& reply) mutable {
      if (outcome.code != mesh::Code::kOk) return answer.Fail(outcome.code, outcome.message);
      answer.Add("y", reply.Output("OUT"));
      answer.Finish();
    });
  }

  mesh::Callee echo_;
  mesh::Callee other_;
};

}  // namespace

MESH_DEPLOYMENT(Asks)
