// What a deployment says of itself, as the argument wants it: all of it wrong.
#include <string>

#include "mesh/deployment.h"

namespace {

class Careless final : public mesh::Deployment {
 public:
  explicit Careless(const mesh::Context& context) : how_(context.args().Text("how", "")) {}

  [[nodiscard]] mesh::Signature Describe() const override {
    mesh::Signature signature;
    if (how_ == "nothing") return signature;
    if (how_ == "twice") signature.Input("x", "FP32", {1});
    signature.Input("x", how_ == "type" ? "FLOAT" : "FP32", how_ == "shape" ? mesh::Shape{0} : mesh::Shape{-1});
    return signature.Output("y", "FP32", {-1});
  }

  void Infer(mesh::Request /*request*/, mesh::Answer answer) override {
    if (how_ == "type of output") static_cast<void>(answer.Buffer("y", "FLOAT", {1}, 4));
    answer.Finish();
  }

 private:
  const std::string how_;
};

}  // namespace

MESH_DEPLOYMENT(Careless)
