#include "user_code/questions.h"

#include <utility>

#include "common/poll.h"
#include "user_code/exchange.h"
#include "user_code/model_question.h"
#include "user_code/question.h"

namespace mesh::user {
namespace {

// Of a question to a deployment that has no other.
constexpr std::int64_t kDefaultTimeoutNs = 30'000'000'000;

bool HasDeadline(const MeshQuestion& question) {
  return question.timeout_ns > 0 || (question.parent != nullptr && question.parent->facts().deadline.has_value());
}

}  // namespace

Result<std::unique_ptr<Questions>> Questions::Create(const triton::Server& server, CompositionOptions options,
                                                     std::size_t threads) {
  Result<std::shared_ptr<rpc::EventLoop>> loop = rpc::EventLoop::Create("user-calls");
  if (!loop.ok()) return loop.status();
  loop.value()->Start();
  return std::unique_ptr<Questions>(new Questions(server, std::move(options), threads, loop.value()));
}

Questions::Questions(const triton::Server& server, CompositionOptions options, std::size_t threads,
                     std::shared_ptr<rpc::EventLoop> loop)
    : server_(server),
      loop_(std::move(loop)),
      composition_(std::make_unique<Composition>(std::move(options), loop_)),
      threads_(std::make_unique<Threads>("user-callback", threads)) {}

Questions::~Questions() {
  static_cast<void>(Close(std::chrono::steady_clock::time_point::max()));
  threads_.reset();
  composition_.reset();
  loop_->Stop();
}

void Questions::Ask(const MeshQuestion& question) {
  MeshQuestion asked = question;
  if (asked.deployment != nullptr && !HasDeadline(asked)) asked.timeout_ns = kDefaultTimeoutNs;
  open_.fetch_add(1);
  const auto asker = std::make_shared<Asker>(asked, *threads_, loop_, [this] { open_.fetch_sub(1); });
  if (closed_.load()) return asker->Tell({Code::kUnavailable, "the deployment ends and asks nobody any more"}, nullptr);
  if (asked.deployment == nullptr) return AskModel(server_, asked, asker);
  composition_->Ask(asked, asker);
}

bool Questions::Close(std::chrono::steady_clock::time_point until) {
  closed_.store(true);
  composition_->Close();
  return PollUntil(until, [this] { return open_.load() == 0; });
}

}  // namespace mesh::user
