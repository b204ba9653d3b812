#include "user_code/exchange.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>
#include <utility>

#include "common/poll.h"
#include "user_code/sink.h"

using mesh::Code;
using mesh::Status;
using std::chrono::steady_clock;

namespace {

// A stream goes on while less than that waits for its client.
constexpr std::size_t kMaxUnread = 1UL << 20;

std::int64_t Nanoseconds(const std::optional<steady_clock::time_point>& when) {
  if (!when) return INT64_MAX;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(when->time_since_epoch()).count();
}

}  // namespace

MeshExchange::MeshExchange(MeshBackendExchange* inner, const MeshBackendRequest& request, const MeshBackendCalls& calls,
                           const mesh::triton::LiveCalls& live)
    : inner_(inner), calls_(calls) {
  ReadParameters(request, live);
  if (call_ != nullptr) facts_ = call_->Facts();
  for (const auto& [key, value] : facts_.metadata) {
    metadata_.push_back({{key.data(), key.size()}, {value.data(), value.size()}});
  }
  view_.size = sizeof(MeshRequest);
  view_.id = request.id;
  view_.inputs = request.inputs;
  view_.input_count = request.input_count;
  view_.outputs = request.outputs;
  view_.output_count = request.output_count;
  view_.parameters = parameters_.data();
  view_.parameter_count = parameters_.size();
  view_.metadata = metadata_.data();
  view_.metadata_count = metadata_.size();
  view_.deadline_ns = Nanoseconds(facts_.deadline);
}

// Ours comes last; clients may send one of the same name.
void MeshExchange::ReadParameters(const MeshBackendRequest& request, const mesh::triton::LiveCalls& live) {
  std::int64_t number = 0;
  for (std::size_t index = 0; index < request.parameter_count; ++index) {
    const MeshValue& value = request.parameters[index];
    if (std::string_view(value.name) == mesh::triton::kCallParameter) {
      number = value.kind == MESH_INTEGER ? value.integer : 0;
    } else {
      parameters_.push_back(value);
    }
  }
  call_ = live.Find(static_cast<std::uint64_t>(number));
}

bool MeshExchange::cancelled() const { return call_ != nullptr ? call_->cancelled() : calls_.cancelled(inner_) != 0; }

Status MeshExchange::CancelledStatus() const {
  if (facts_.deadline && steady_clock::now() >= *facts_.deadline) {
    return {Code::kDeadlineExceeded, "the request's deadline has passed"};
  }
  return {Code::kCancelled, "the client does not wait for the answer any more"};
}

void MeshExchange::Finish(Status status) {
  if (!status.ok()) {
    status = mesh::user::AsBegun(std::move(status));
    if (call_ != nullptr) call_->NoteFailure(status);
  }
  calls_.finish(inner_, static_cast<std::int32_t>(status.code()), status.message().data(), status.message().size());
}

void MeshExchange::Release() {
  MeshBackendExchange* const inner = inner_;
  const MeshBackendCalls& calls = calls_;
  delete this;
  calls.release(inner);
}

Status MeshExchange::WaitForReader() const {
  static_cast<void>(
      mesh::PollUntil(steady_clock::time_point::max(), [this] { return cancelled() || unread_bytes() <= kMaxUnread; }));
  return cancelled() ? CancelledStatus() : Status();
}

Status MeshExchange::Send(bool wait) {
  if (cancelled()) return CancelledStatus();
  std::string error;
  const std::int32_t code = calls_.send(inner_, mesh::user::Into(&error));
  if (code != 0) return {mesh::user::CodeOf(code), error};
  return wait ? WaitForReader() : Status();
}

void MeshExchange::SetFunctions(MeshHost* host) {
  host->cancelled = [](const MeshExchange* exchange) -> std::int32_t { return exchange->cancelled() ? 1 : 0; };
  host->unread_bytes = [](const MeshExchange* exchange) { return exchange->unread_bytes(); };
  host->output = [](MeshExchange* exchange, const char* name, const char* datatype, const std::int64_t* shape,
                    std::size_t dims, std::size_t size, void** data, MeshSink error) {
    return exchange->calls_.output(exchange->inner_, name, datatype, shape, dims, size, data, error);
  };
  host->set_parameter = [](MeshExchange* exchange, const MeshValue* value, MeshSink error) {
    return exchange->calls_.set_parameter(exchange->inner_, value, error);
  };
  host->send = [](MeshExchange* exchange, std::int32_t wait, MeshSink error) {
    return mesh::user::Tell(exchange->Send(wait != 0), error);
  };
  host->finish = [](MeshExchange* exchange, std::int32_t code, const char* message, std::size_t size) {
    exchange->Finish(Status(mesh::user::CodeOf(code), std::string(message, size)));
  };
  host->release = [](MeshExchange* exchange) { exchange->Release(); };
}

namespace mesh::user {
namespace {

// By these, in any case, clients know what was never begun (cpp_ext/routing/verdict.cc).
constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kRefusals{{
    {"draining", "leaving"},
    {"shutting down", "ending"},
    {"exceeds maximum queue size", "has a full queue"},
    {"(not processed)", "[not processed there]"},
}};

char Lower(char letter) { return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter; }

std::string Replaced(std::string text, std::string_view words, std::string_view others) {
  for (std::size_t from = 0;;) {
    const auto found = std::search(text.begin() + static_cast<std::ptrdiff_t>(from), text.end(), words.begin(),
                                   words.end(), [](char one, char other) { return Lower(one) == other; });
    if (found == text.end()) return text;
    from = static_cast<std::size_t>(found - text.begin());
    text.replace(from, words.size(), others);
    from += others.size();
  }
}

}  // namespace

Status AsBegun(Status status) {
  if (status.code() != Code::kUnavailable) return status;
  std::string text = status.message();
  for (const auto& [words, others] : kRefusals) text = Replaced(std::move(text), words, others);
  return {Code::kUnavailable, std::move(text)};
}

}  // namespace mesh::user
