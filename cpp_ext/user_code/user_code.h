// The code of a deployment in this process: its library, its object, and its place among Triton's models.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "backends/deployment/host.h"
#include "common/status.h"
#include "mesh/abi.h"
#include "triton/server.h"
#include "user_code/composition.h"
#include "user_code/questions.h"
#include "user_code/settings.h"

namespace mesh::user {

struct Options {
  std::string library;  // path of the shared library
  std::string args;     // JSON texts, or empty
  std::string config;
  std::string deployment;
  std::string model;  // the name that clients ask for
  std::string application;
  std::string replica;
  std::string code_folder;
  std::string model_folder;       // the process's own, where the deployment gets a folder, too
  std::string backend_directory;  // Triton's, which holds ours
  std::size_t threads = 8;        // that run requests, and as many that run callbacks
  CompositionOptions composition;
};

// Methods other than the destructor may be called from any thread; those that run the user's code return when it does.
class UserCode {
 public:
  // Loads the library, makes the object, gives it its config and makes it a model of `server`, which must outlive this.
  // The message of a failure is for the spec's author.
  static Result<std::unique_ptr<UserCode>> Load(Options options, triton::Server& server);
  ~UserCode();  // after Close
  UserCode(const UserCode&) = delete;
  UserCode& operator=(const UserCode&) = delete;

  // FAILED_PRECONDITION with what Reconfigure threw; the deployment goes on as before.
  Status Reconfigure(const std::string& config);
  // OK, or why it is not well.
  Status CheckHealth();
  // Takes the model from Triton and ends the object, when no request runs any more. False when requests, questions or
  // callbacks still run after `limit`: then all of it must stay until the process ends.
  bool Close(std::chrono::milliseconds limit);

 private:
  UserCode(Options options, triton::Server& server) : options_(std::move(options)), server_(server) {}
  Status Create();
  Status AttachBackend();
  Status Serve();
  static void Execute(void* self, MeshBackendExchange* exchange, const MeshBackendRequest* request,
                      const MeshBackendCalls* calls);

  const Options options_;
  triton::Server& server_;
  const MeshFactory* factory_ = nullptr;
  SettingsText args_;
  std::unique_ptr<Questions> questions_;
  MeshHost host_{};
  MeshBackendHost backend_host_{};
  MeshBackendAttach attach_ = nullptr;
  void* deployment_ = nullptr;
  bool serving_ = false;
  bool closed_ = false;
  bool ended_ = false;
};

}  // namespace mesh::user
