// Asking models of the embedded Triton, and other deployments of the application.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "mesh/abi.h"
#include "mesh/error.h"
#include "mesh/tensor.h"

namespace mesh {
inline namespace v1 {

class Request;

// What a model or a deployment answered. Tensors lie where it put them, as long as a copy of this is there.
class Reply {
 public:
  Reply() = default;
  Reply(const MeshHost* host, MeshReply* reply) : reply_(reply, host->reply_release) {
    outputs_ = host->reply_outputs(reply, &count_);
  }

  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] TensorView Output(std::size_t index) const { return TensorView(outputs_[index]); }
  [[nodiscard]] bool Has(std::string_view name) const { return Find(name) != nullptr; }
  // INTERNAL when it has none of that name.
  [[nodiscard]] TensorView Output(std::string_view name) const {
    const MeshTensor* found = Find(name);
    if (found == nullptr) throw Error(Code::kInternal, "the answer has no output '" + std::string(name) + "'");
    return TensorView(*found);
  }

 private:
  [[nodiscard]] const MeshTensor* Find(std::string_view name) const {
    for (std::size_t index = 0; index < count_; ++index) {
      if (outputs_[index].name == name) return &outputs_[index];
    }
    return nullptr;
  }

  std::shared_ptr<MeshReply> reply_;
  const MeshTensor* outputs_ = nullptr;
  std::size_t count_ = 0;
};

struct CallOptions {
  std::vector<std::string> outputs;     // those wanted; none: all
  std::chrono::nanoseconds timeout{0};  // 0: what the request has left; of a deployment without a request 30 s
  std::string version;                  // empty: any
  bool run_once = false;                // a deployment may not be asked again once it may have begun
};

// What there was instead of an answer: code kOk when there was one.
struct Outcome {
  Code code = Code::kOk;
  std::string message;
};

// One model of the embedded Triton, or another deployment. Cheap to copy; any thread may ask, many at a time. Belongs
// to the Context that it came from.
//
// Questions share the deadline, the cancellation and the trace of the request that they are asked for. The tensors of
// inputs are not copied on their way to a model, nor are its outputs on their way back. So an answer never comes before
// the model has ended, also when nobody waits for it any more.
class Callee {
 public:
  Callee(const MeshHost* host, std::string deployment, std::string model)
      : host_(host), deployment_(std::move(deployment)), model_(std::move(model)) {}

  // Waits for the answer. Throws what was answered instead.
  [[nodiscard]] Reply Infer(const Request& request, std::vector<Input> inputs, CallOptions options = {}) const;
  // Not on behalf of a request: warming up, refreshing.
  [[nodiscard]] Reply Infer(std::vector<Input> inputs, CallOptions options = {}) const {
    return Wait(nullptr, std::move(inputs), std::move(options));
  }

  // Returns at once; `done` is called once, on a thread on which it may block. `request` must stay until then: move it
  // into `done`.
  using Done = std::function<void(Outcome, Reply)>;
  void InferAsync(const Request& request, std::vector<Input> inputs, CallOptions options, Done done) const;
  void InferAsync(std::vector<Input> inputs, CallOptions options, Done done) const {
    Ask(nullptr, std::move(inputs), std::move(options), std::move(done), false);
  }

 private:
  // Everything that a question refers to.
  struct Asked {
    const MeshHost* host = nullptr;
    std::vector<Input> inputs;
    CallOptions options;
    Done done;
    std::vector<MeshTensor> tensors;
    std::vector<const char*> outputs;
  };

  static void Told(void* self, std::int32_t code, const char* message, std::size_t size, MeshReply* reply) {
    const std::unique_ptr<Asked> asked(static_cast<Asked*>(self));
    asked->done({static_cast<Code>(code), std::string(message, size)},
                reply == nullptr ? Reply() : Reply(asked->host, reply));
  }

  void Ask(MeshExchange* parent, std::vector<Input> inputs, CallOptions options, Done done, bool quick) const {
    auto asked = std::make_unique<Asked>();
    asked->host = host_;
    asked->inputs = std::move(inputs);
    asked->options = std::move(options);
    asked->done = std::move(done);
    for (const Input& input : asked->inputs) asked->tensors.push_back(input.raw());
    for (const std::string& output : asked->options.outputs) asked->outputs.push_back(output.c_str());
    MeshQuestion question{};
    question.size = sizeof question;
    question.deployment = deployment_.empty() ? nullptr : deployment_.c_str();
    question.model = model_.c_str();
    question.version = asked->options.version.c_str();
    question.id = "";
    question.inputs = asked->tensors.data();
    question.input_count = asked->tensors.size();
    question.outputs = asked->outputs.data();
    question.output_count = asked->outputs.size();
    question.parent = parent;
    question.timeout_ns = asked->options.timeout.count();
    question.run_once = asked->options.run_once ? 1 : 0;
    question.quick = quick ? 1 : 0;
    question.done = Told;
    question.self = asked.release();
    host_->ask(host_->self, &question);
  }

  [[nodiscard]] Reply Wait(MeshExchange* parent, std::vector<Input> inputs, CallOptions options) const {
    std::mutex mutex;
    std::condition_variable changed;
    bool told = false;
    Outcome outcome;
    Reply reply;
    const auto done = [&](Outcome how, Reply what) {
      const std::lock_guard<std::mutex> lock(mutex);
      outcome = std::move(how);
      reply = std::move(what);
      told = true;
      changed.notify_one();  // under the lock: whoever waits takes all of this away
    };
    Ask(parent, std::move(inputs), std::move(options), done, true);
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return told; });
    if (outcome.code != Code::kOk) throw Error(outcome.code, outcome.message);
    return reply;
  }

  const MeshHost* host_;
  std::string deployment_;
  std::string model_;
};

}  // namespace v1
}  // namespace mesh
