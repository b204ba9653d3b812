// Multiplies, and does on request what user code may do wrong or well.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "mesh/deployment.h"

namespace {

class Scale final : public mesh::Deployment {
 public:
  explicit Scale(const mesh::Context& context)
      : context_(context), factor_(context.args().Number("factor", 1.0)), gate_(context.args().Text("gate", "")) {
    if (context.args().Flag("fail", false)) throw std::runtime_error("this one was told to fail");
    if (context.args().Flag("slow_to_be_well", false)) checks_until_well_ = 2;
    context.Log(mesh::LogLevel::kInfo, "made with factor " + std::to_string(factor_));
  }

  [[nodiscard]] mesh::Signature Describe() const override {
    return mesh::Signature()
        .Input("x", "FP32", {-1})
        .Input("what", "BYTES", {1}, true)
        .Output("y", "FP32", {-1})
        .Output("told", "BYTES", {-1});
  }

  void Infer(mesh::Request request, mesh::Answer answer) override {
    if (request.Has("what") && !Do(std::string(request.Input("what").Texts().at(0)), request, &answer)) return;
    const auto x = request.Input("x").Values<float>();
    if (request.Wants("y")) {
      const auto y = answer.Output<float>("y", {static_cast<std::int64_t>(x.size())});
      const std::lock_guard<std::mutex> lock(mutex_);
      for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * static_cast<float>(factor_) + offset_;
    }
    answer.Finish();
  }

  void Health() override {
    if (checks_until_well_ > 0) {
      --checks_until_well_;
      throw std::runtime_error("not yet");
    }
    if (sick_) throw mesh::Error(mesh::Code::kUnavailable, "it was told to be sick");
  }

  void Reconfigure(const mesh::Settings& config) override {
    const auto offset = static_cast<float>(config.Number("offset", 0.0));
    if (offset < 0) throw std::invalid_argument("an offset below 0");
    const std::lock_guard<std::mutex> lock(mutex_);
    offset_ = offset;
  }

 private:
  // False where the answer is somebody else's now.
  bool Do(const std::string& what, const mesh::Request& request, mesh::Answer* answer) {
    if (what == "throw") throw std::runtime_error("it went wrong");
    if (what == "refuse") throw mesh::Error(mesh::Code::kFailedPrecondition, "not today");
    if (what == "pretend") throw mesh::Error(mesh::Code::kUnavailable, "this replica is draining");
    if (what == "odd") throw 42;
    if (what == "drop") return false;
    if (what == "crash") std::abort();
    if (what == "sick") sick_ = true;
    if (what == "wait") WaitUntilCancelled(request);
    if (what == "later") return Later(request, *answer), false;
    if (what == "about") About(request, answer);
    if (what == "count") Count(answer);
    if (what == "gate") WaitForGate();
    if (what == "sleep") std::this_thread::sleep_for(std::chrono::milliseconds(300));
    return true;
  }

  void Count(mesh::Answer* answer) {
    const auto texts = std::vector<std::string>{std::to_string(waiting_.load()), std::to_string(cancelled_.load())};
    answer->AddTexts("told", {2}, texts);
  }

  // Until the test has made the file.
  void WaitForGate() {
    while (!std::filesystem::exists(gate_)) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }

  void WaitUntilCancelled(const mesh::Request& request) {
    ++waiting_;
    while (!request.cancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    --waiting_;
    ++cancelled_;
    throw mesh::Error(mesh::Code::kCancelled, "nobody waits");
  }

  // Answers from another thread, after Infer has returned.
  static void Later(const mesh::Request& request, const mesh::Answer& answer) {
    std::thread([request = request, answer = answer]() mutable {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      const auto x = request.Input("x").Values<float>();
      answer.Add("y", {static_cast<std::int64_t>(x.size())}, x.data());
      answer.Finish();
    }).detach();
  }

  void About(const mesh::Request& request, mesh::Answer* answer) {
    const auto left = request.deadline() ? *request.deadline() - std::chrono::steady_clock::now()
                                         : std::chrono::steady_clock::duration::zero();
    const MeshValue* color = request.Parameter("color");
    const auto texts = std::vector<std::string>{
        std::string(request.id()),
        std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(left).count()),
        std::string(request.Metadata("x-user").value_or("nobody")),
        color == nullptr ? "none" : std::string(color->text.data, color->text.size),
        context_.deployment() + "/" + context_.model() + "/" + context_.replica(),
        context_.args().json(),
        std::string(request.Metadata("traceparent").value_or("none")),
    };
    answer->AddTexts("told", {static_cast<std::int64_t>(texts.size())}, texts);
    answer->SetParameter("made_by", std::string("scale"));
  }

  const mesh::Context context_;
  const double factor_;
  const std::string gate_;
  std::mutex mutex_;
  float offset_ = 0;
  std::atomic<bool> sick_{false};
  std::atomic<int> checks_until_well_{0};
  std::atomic<int> waiting_{0};
  std::atomic<int> cancelled_{0};
};

}  // namespace

MESH_DEPLOYMENT(Scale)
