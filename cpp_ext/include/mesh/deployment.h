// A deployment of your own in C++: a class that answers requests, in a shared library that replicas load.
//
//   class Scale final : public mesh::Deployment {
//    public:
//     explicit Scale(const mesh::Context& context) : factor_(context.args().Number("factor", 2.0)) {}
//     mesh::Signature Describe() const override {
//       return mesh::Signature().Input("x", "FP32", {-1}).Output("y", "FP32", {-1});
//     }
//     void Infer(mesh::Request request, mesh::Answer answer) override {
//       const auto x = request.Input("x").Values<float>();
//       const auto y = answer.Output<float>("y", {static_cast<std::int64_t>(x.size())});
//       for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * factor_;
//       answer.Finish();
//     }
//    private:
//     float factor_;
//   };
//   MESH_DEPLOYMENT(Scale)
//
// docs/guides/cpp.md is the guide. Needs C++17 and nothing but the standard library; compile it with any compiler.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mesh/abi.h"
#include "mesh/call.h"
#include "mesh/error.h"
#include "mesh/request.h"
#include "mesh/settings.h"
#include "mesh/tensor.h"
#include "mesh/version.h"

namespace mesh {
inline namespace v1 {

enum class LogLevel : std::int32_t { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

// What a deployment is made with; copies stay good until it was destroyed.
class Context {
 public:
  explicit Context(const MeshHost* host) : host_(host), args_("args", host->args) {}

  [[nodiscard]] const Settings& args() const { return args_; }
  [[nodiscard]] std::string deployment() const { return host_->deployment; }
  [[nodiscard]] std::string model() const { return host_->model; }  // the name that clients ask for
  [[nodiscard]] std::string application() const { return host_->application; }
  [[nodiscard]] std::string replica() const { return host_->replica; }
  // The folder that the spec names as `code`, for data that comes with the library; shared, so do not write there.
  [[nodiscard]] std::string code_folder() const { return host_->code_folder; }
  [[nodiscard]] std::string model_folder() const { return host_->model_folder; }  // of `repository`; empty: none

  // One line of the replica's log.
  void Log(LogLevel level, std::string_view text) const {
    host_->log(host_->self, static_cast<std::int32_t>(level), text.data(), text.size());
  }
  // A model of `repository`, in the Triton of this process.
  [[nodiscard]] Callee Triton(std::string model) const { return {host_, "", std::move(model)}; }
  // Another deployment of the application, over discovery. `model`: the name that it answers to, where that is not its
  // own.
  [[nodiscard]] Callee Handle(std::string deployment, std::string model = "") const {
    host_->follow(host_->self);
    return {host_, std::move(deployment), std::move(model)};
  }

 private:
  const MeshHost* host_;
  Settings args_;
};

// What clients are told of a deployment, and what their requests are checked against. A dimension of -1 may be any.
class Signature {
 public:
  Signature& Input(std::string name, std::string datatype, Shape shape, bool optional = false) {
    inputs_.push_back({std::move(name), std::move(datatype), std::move(shape), optional});
    return *this;
  }
  Signature& Output(std::string name, std::string datatype, Shape shape) {
    outputs_.push_back({std::move(name), std::move(datatype), std::move(shape), false});
    return *this;
  }
  // Any number of answers per request: clients use streams.
  Signature& Streamed() {
    streamed_ = true;
    return *this;
  }

  void Tell(const MeshSignatureSink& sink) const {
    for (const Entry& input : inputs_) {
      sink.input(sink.self, input.name.c_str(), input.datatype.c_str(), input.shape.data(), input.shape.size(),
                 input.optional ? 1 : 0);
    }
    for (const Entry& output : outputs_) {
      sink.output(sink.self, output.name.c_str(), output.datatype.c_str(), output.shape.data(), output.shape.size());
    }
    if (streamed_) sink.streamed(sink.self);
  }

 private:
  struct Entry {
    std::string name;
    std::string datatype;
    Shape shape;
    bool optional;
  };
  std::vector<Entry> inputs_;
  std::vector<Entry> outputs_;
  bool streamed_ = false;
};

// What users derive from. The constructor takes a `const mesh::Context&`. What it or a method throws is caught and
// told: of Infer to the client, of the others as the reason why the replica is not ready, not well, or not changed.
//
// Infer is called on `threads` threads at a time; Health and Reconfigure on others, beside it. None of them is a thread
// of the network's, so all may block.
class Deployment {
 public:
  Deployment() = default;
  Deployment(const Deployment&) = delete;
  Deployment& operator=(const Deployment&) = delete;
  virtual ~Deployment() = default;  // when no request runs any more

  // Once, after the constructor.
  [[nodiscard]] virtual Signature Describe() const = 0;
  // Both may be kept and used after it has returned, on any thread.
  virtual void Infer(Request request, Answer answer) = 0;
  // Every second. Throws when it is not well, with the reason; three times in a row, or no answer for 15 s, and the
  // replica is restarted.
  virtual void Health() {}
  // Before the replica is ready, and while it serves when a revision changes nothing but `config`: take all of it, or
  // throw.
  virtual void Reconfigure(const Settings& /*config*/) {}
};

namespace detail {

template <typename Work>
std::int32_t Guarded(MeshSink error, Work work) noexcept {
  const auto put = [&](std::string_view text) { error.put(error.self, text.data(), text.size()); };
  try {
    work();
    return 0;
  } catch (const Error& failed) {
    put(failed.what());
    return failed.code() == Code::kOk ? static_cast<std::int32_t>(Code::kInternal)
                                      : static_cast<std::int32_t>(failed.code());
  } catch (const std::exception& failed) {
    put(failed.what());
  } catch (...) {
    put("an exception of an unknown type");
  }
  return static_cast<std::int32_t>(Code::kInternal);
}

// A deployment with the host that it calls.
struct Instance {
  const MeshHost* host;
  std::unique_ptr<Deployment> deployment;
};

template <typename Class>
std::int32_t Create(const MeshHost* host, void** made, MeshSink error) {
  return Guarded(error, [&] {
    auto instance = std::make_unique<Instance>();
    instance->host = host;
    instance->deployment = std::make_unique<Class>(Context(host));
    *made = instance.release();
  });
}

inline void Destroy(void* self) { delete static_cast<Instance*>(self); }

inline std::int32_t Describe(void* self, const MeshSignatureSink* signature, MeshSink error) {
  return Guarded(error, [&] { static_cast<Instance*>(self)->deployment->Describe().Tell(*signature); });
}

inline void Infer(void* self, MeshExchange* raw, const MeshRequest* request) {
  const auto* instance = static_cast<Instance*>(self);
  Answer answer(std::make_shared<Exchange>(instance->host, raw, request));
  std::string message;
  const MeshSink into{&message, [](void* text, const char* data, std::size_t size) {
                        static_cast<std::string*>(text)->append(data, size);
                      }};
  const std::int32_t code = Guarded(into, [&] {
    instance->deployment->Infer(Request(answer.exchange()), answer);  // the copy here keeps it unanswered for the error
  });
  if (code != 0) answer.Fail(static_cast<Code>(code), message);
}

inline std::int32_t Health(void* self, MeshSink error) {
  return Guarded(error, [&] { static_cast<Instance*>(self)->deployment->Health(); });
}

inline std::int32_t Reconfigure(void* self, const MeshSettings* config, MeshSink error) {
  return Guarded(error, [&] { static_cast<Instance*>(self)->deployment->Reconfigure(Settings("config", *config)); });
}

template <typename Class>
const MeshFactory* Factory() {
  static const MeshFactory factory{
      sizeof(MeshFactory), MESH_ABI_VERSION, MESH_VERSION, Create<Class>, Destroy, Describe, Infer, Health,
      Reconfigure};
  return &factory;
}

}  // namespace detail
}  // namespace v1
}  // namespace mesh

// Once per library, outside of all namespaces: what replicas find in it.
#define MESH_DEPLOYMENT(Class)                                                                         \
  extern "C" __attribute__((visibility("default"))) const MeshFactory* mesh_deployment_factory(void) { \
    return mesh::detail::Factory<Class>();                                                             \
  }
