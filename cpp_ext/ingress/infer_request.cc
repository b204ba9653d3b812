#include "ingress/infer_request.h"

#include <utility>

#include "ingress/infer_message.h"
#include "ingress/text.h"
#include "ingress/workspace.h"

namespace mesh::ingress {
namespace {

using std::chrono::steady_clock;

// Microseconds until the deadline; 0 for none. A deadline that has passed is 1: Triton reads 0 as "no timeout".
std::uint64_t MicrosecondsLeft(const std::optional<steady_clock::time_point>& deadline) {
  if (!deadline.has_value()) return 0;
  const auto left = std::chrono::duration_cast<std::chrono::microseconds>(*deadline - steady_clock::now()).count();
  return left > 0 ? static_cast<std::uint64_t>(left) : 1;
}

}  // namespace

Status DecoupledRefused() {
  return {Code::kUnimplemented, "ModelInfer RPC doesn't support models with decoupled transaction policy"};
}

Status PrepareRequest(std::string_view bytes, const std::optional<steady_clock::time_point>& deadline,
                      const triton::Server& server, const SharedMemory& shared_memory, Answers answers,
                      PreparedRequest* prepared, RequestExtras* extras) {
  Workspace& work = LocalWorkspace();
  if (Status status = ParseInferMessage(bytes, &work.message); !status.ok()) return status;
  prepared->model = work.message.model_name;
  prepared->id = work.message.id;
  Result<std::int64_t> version = ParseVersion(work.message.model_version);
  if (!version.ok()) return version.status();
  const char* model = work.arena.Copy(work.message.model_name);
  Result<std::uint32_t> transaction = server.TransactionFlags(model, version.value());
  if (!transaction.ok()) return transaction.status();
  prepared->decoupled = (transaction.value() & TRITONSERVER_TXN_DECOUPLED) != 0;
  if (prepared->decoupled && answers == Answers::kOne) return DecoupledRefused();
  Result<triton::RequestHandle> request = server.NewRequest(model, version.value());
  if (!request.ok()) return request.status();
  prepared->request = std::move(request).value();
  return BuildRequest(work.message, MicrosecondsLeft(deadline), prepared->request.get(), shared_memory, &work.arena,
                      extras);
}

}  // namespace mesh::ingress
