#include "user_code/user_code.h"

#include <dlfcn.h>

#include <filesystem>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>

#include "common/log.h"
#include "user_code/exchange.h"
#include "user_code/library.h"
#include "user_code/signature.h"
#include "user_code/sink.h"

namespace mesh::user {
namespace {

// What a constructor has begun may still run when it has thrown.
constexpr std::chrono::milliseconds kCloseAfterFailure{10000};

Status Failed(const std::string& what, const Status& status) {
  const std::string code = status.code() == Code::kInternal ? "" : std::string(CodeName(status.code())) + ": ";
  return {Code::kFailedPrecondition, what + " failed: " + code + status.message()};
}

void Log(void* /*self*/, std::int32_t level, const char* text, std::size_t size) {
  const auto known = level >= 0 && level <= 3 ? static_cast<log::Level>(level) : log::Level::kError;
  log::Write(known, "deployment says", {{"text", std::string_view(text, size)}});
}

}  // namespace

Result<std::unique_ptr<UserCode>> UserCode::Load(Options options, triton::Server& server) {
  std::unique_ptr<UserCode> code(new UserCode(std::move(options), server));
  Result<const MeshFactory*> factory = LoadFactory(code->options_.library);
  if (!factory.ok()) return factory.status();
  code->factory_ = factory.value();
  Status status = code->Create();
  if (status.ok()) status = code->Reconfigure(code->options_.config);
  if (status.ok()) status = code->AttachBackend();
  if (status.ok()) status = code->Serve();
  if (status.ok()) return code;
  if (!code->Close(kCloseAfterFailure)) static_cast<void>(code.release());
  return status;
}

Status UserCode::Create() {
  Result<SettingsText> args = SettingsText::Read(options_.args, "args");
  if (!args.ok()) return args.status();
  args_ = std::move(args).value();
  Result<std::unique_ptr<Questions>> questions = Questions::Create(server_, options_.composition, options_.threads);
  if (!questions.ok()) return questions.status();
  questions_ = std::move(questions).value();
  host_.size = sizeof host_;
  host_.abi = MESH_ABI_VERSION;
  host_.self = this;
  host_.args = args_.view();
  host_.deployment = options_.deployment.c_str();
  host_.model = options_.model.c_str();
  host_.application = options_.application.c_str();
  host_.replica = options_.replica.c_str();
  host_.code_folder = options_.code_folder.c_str();
  host_.model_folder = options_.model_folder.c_str();
  host_.log = Log;
  host_.ask = [](void* self, const MeshQuestion* question) {
    static_cast<UserCode*>(self)->questions_->Ask(*question);
  };
  host_.follow = [](void* self) { static_cast<UserCode*>(self)->questions_->Follow(); };
  host_.reply_outputs = [](const MeshReply* reply, std::size_t* count) {
    *count = reply->outputs.size();
    return reply->outputs.data();
  };
  host_.reply_release = [](MeshReply* reply) { delete reply; };
  MeshExchange::SetFunctions(&host_);
  std::string error;
  const std::int32_t code = factory_->create(&host_, &deployment_, Into(&error));
  return code == 0 ? Status() : Failed("the constructor of the deployment", {CodeOf(code), error});
}

// Triton opens the same file later, and gets the same library.
Status UserCode::AttachBackend() {
  const std::string path = options_.backend_directory + "/" MESH_BACKEND_NAME "/libtriton_" MESH_BACKEND_NAME ".so";
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* told = dlerror();
    return {Code::kFailedPrecondition, "the mesh's own backend " + path +
                                           " cannot be loaded: " + (told == nullptr ? "no reason is given" : told) +
                                           "; build it: `make setup`"};
  }
  attach_ = reinterpret_cast<MeshBackendAttach>(dlsym(handle, MESH_BACKEND_ATTACH));
  if (attach_ == nullptr) return {Code::kFailedPrecondition, path + " is not the mesh's backend of this name"};
  backend_host_ = {this, Execute};
  attach_(&backend_host_);
  return {};
}

Status UserCode::Serve() {
  const Result<bool> taken = HasModel(server_, options_.model);
  if (!taken.ok()) return taken.status();
  if (taken.value()) {
    return {Code::kFailedPrecondition,
            "the repository has a model '" + options_.model +
                "', which is also the name of the deployment's own: give it another `model`"};
  }
  Signature signature;
  std::string error;
  const MeshSignatureSink sink = signature.sink();
  const std::int32_t code = factory_->describe(deployment_, &sink, Into(&error));
  if (code != 0) return Failed("Describe", {CodeOf(code), error});
  Result<std::string> config = signature.ModelConfig(options_.model, options_.threads);
  if (!config.ok()) return config.status();
  triton::ModelOverride with;
  with.config = std::move(config).value();
  std::error_code failed;  // a folder without files, by which Triton's index knows it
  std::filesystem::create_directories(std::filesystem::path(options_.model_folder) / options_.model / "1", failed);
  triton::Server::HeldVersions replaced;  // nothing: there was no model of this name
  Status loaded =
      failed ? Status(Code::kUnavailable, failed.message()) : server_.LoadOnRequest(options_.model, with, &replaced);
  serving_ = loaded.ok();
  return loaded.ok() ? loaded : Failed("making the deployment a model of Triton", loaded);
}

void UserCode::Execute(void* self, MeshBackendExchange* exchange, const MeshBackendRequest* request,
                       const MeshBackendCalls* calls) {
  auto* code = static_cast<UserCode*>(self);
  auto* given = new MeshExchange(exchange, *request, *calls, *code->server_.live_calls());
  if (given->cancelled()) {  // while it waited for a thread
    given->Finish(given->CancelledStatus());
    return given->Release();
  }
  code->factory_->infer(code->deployment_, given, &given->view());
}

Status UserCode::Reconfigure(const std::string& config) {
  const Result<SettingsText> settings = SettingsText::Read(config, "config");
  if (!settings.ok()) return settings.status();
  const MeshSettings view = settings.value().view();
  std::string error;
  const std::int32_t code = factory_->reconfigure(deployment_, &view, Into(&error));
  return code == 0 ? Status() : Failed("Reconfigure", {CodeOf(code), error});
}

Status UserCode::CheckHealth() {
  std::string error;
  const std::int32_t code = factory_->health(deployment_, Into(&error));
  return code == 0 ? Status() : Status(CodeOf(code), error);
}

UserCode::~UserCode() = default;

bool UserCode::Close(std::chrono::milliseconds limit) {
  if (std::exchange(closed_, true)) return ended_;
  const auto until = std::chrono::steady_clock::now() + limit;
  if (serving_ && !server_.EndModel(options_.model, until).ok()) return false;
  if (questions_ != nullptr && !questions_->Close(until)) return false;
  if (deployment_ != nullptr) factory_->destroy(deployment_);
  deployment_ = nullptr;
  if (attach_ != nullptr) attach_(nullptr);
  if (serving_) {
    std::error_code error;  // what cannot be removed is removed with all of the process's folders
    std::filesystem::remove_all(std::filesystem::path(options_.model_folder) / options_.model, error);
  }
  questions_.reset();
  ended_ = true;
  return true;
}

}  // namespace mesh::user
