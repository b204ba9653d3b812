#include "echo_methods.h"

#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace mesh::rpc {
namespace {

constexpr std::size_t kSliceBytes = 1000;
constexpr std::size_t kUnsentGoal = 256 * 1024;

Message MessageOf(Slice slice) {
  Message message;
  message.Append(std::move(slice));
  return message;
}

// What the metadata of the call asks for.
std::pair<Status, Metadata> OutcomeOf(const ServerCall& call) {
  int code = 0;
  std::string text;
  Metadata trailers;
  for (const auto& [key, value] : call.metadata()) {
    if (key == "x-status") code = std::stoi(value);
    if (key == "x-message-bin") text = value;
    if (key.compare(0, 5, "echo-") == 0) trailers.emplace_back(key, value);
  }
  return {code == 0 ? Status() : Status(static_cast<Code>(code), text), trailers};
}

void Answer(const std::shared_ptr<ServerCall>& call, Slice request) {
  auto [status, trailers] = OutcomeOf(*call);
  if (status.ok()) call->Send(MessageOf(std::move(request)));
  call->Finish(std::move(status), std::move(trailers));
}

void AnswerSliced(const std::shared_ptr<ServerCall>& call, const Slice& request) {
  Message message;
  for (std::size_t at = 0; at < request.size(); at += kSliceBytes) {
    message.Append(Slice(request.owner(), request.data() + at, std::min(kSliceBytes, request.size() - at)));
  }
  call->Reply(std::move(message));
}

void Collect(const std::shared_ptr<ServerCall>& call) {
  auto sum = std::make_shared<std::size_t>(0);
  call->OnMessage([call, sum](const std::optional<Slice>& message) {
    if (message) {
      *sum += message->size();
    } else {
      call->Reply(Message(std::to_string(*sum)));
    }
  });
}

// Sends while the client takes: never more than kUnsentGoal waits here.
class Counting : public std::enable_shared_from_this<Counting> {
 public:
  Counting(std::shared_ptr<ServerCall> call, std::size_t count, std::size_t size)
      : call_(std::move(call)), left_(count), slice_(Slice::Own(std::string(size, 'x'))) {}

  void Start() {
    call_->OnSent([self = shared_from_this()] { self->SendSome(); });
    SendSome();
  }

 private:
  void SendSome() {
    while (left_ > 0 && call_->unsent_bytes() < kUnsentGoal && !call_->done()) {
      --left_;
      call_->Send(MessageOf(slice_));
    }
    if (left_ == 0) call_->Finish(Status());
  }

  const std::shared_ptr<ServerCall> call_;
  std::size_t left_;
  const Slice slice_;
};

void Count(const std::shared_ptr<ServerCall>& call) {
  call->OnMessage([call](const std::optional<Slice>& message) {
    if (!message) return;
    std::istringstream words{std::string(message->view())};
    std::size_t count = 0;
    std::size_t size = 0;
    words >> count >> size;
    std::make_shared<Counting>(call, count, size)->Start();
  });
}

void Bidi(const std::shared_ptr<ServerCall>& call) {
  call->OnMessage([call](const std::optional<Slice>& message) {
    if (message) {
      call->Send(MessageOf(*message));
    } else {
      auto [status, trailers] = OutcomeOf(*call);
      call->Finish(std::move(status), std::move(trailers));
    }
  });
}

}  // namespace

EchoMethods::EchoMethods() : thread_([this] { Run(); }) {}

void EchoMethods::Register(Server* server) {
  const std::string prefix = "/mesh.test.Echo/";
  server->AddUnary(prefix + "Unary", Answer);
  server->AddUnary(prefix + "Sliced", AnswerSliced);
  server->AddUnary(prefix + "Threaded", [this](const std::shared_ptr<ServerCall>& call, const Slice& request) {
    RunLater([call, request] { Answer(call, request); });
  });
  server->AddUnary(prefix + "Never", [this](const std::shared_ptr<ServerCall>& call, const Slice&) {
    call->OnCancel([this, call] { ++cancelled_; });
  });
  server->AddUnary(prefix + "Throw", [](const std::shared_ptr<ServerCall>&, const Slice&) {
    throw std::runtime_error("the secret inner workings");
  });
  // Sends, then makes the loop look for what there is to send; "FinishParked" ends all that wait so.
  server->AddUnary(prefix + "SendAndPark", [this](const std::shared_ptr<ServerCall>& call, const Slice& request) {
    RunLater([this, call, request] {
      call->Send(MessageOf(request));
      call->OnMessage([](const std::optional<Slice>&) {});
      parked_.push_back(call);
    });
  });
  server->AddUnary(prefix + "FinishParked", [this](const std::shared_ptr<ServerCall>& call, const Slice& request) {
    RunLater([this, call, request] {
      for (const std::shared_ptr<ServerCall>& parked : parked_) parked->Finish(Status(), {});
      parked_.clear();
      Answer(call, request);
    });
  });
  server->AddUnary(prefix + "BadTrailers", [](const std::shared_ptr<ServerCall>& call, const Slice&) {
    call->Send(Message("answer"));
    call->Finish(Status(), {{"Bad Key", "line\nbreak"}});
  });
  server->AddStream(prefix + "Collect", Collect);
  server->AddStream(prefix + "Count", Count);
  server->AddStream(prefix + "Bidi", Bidi);
  server->AddStream(prefix + "BidiThreaded", [this](const std::shared_ptr<ServerCall>& call) {
    RunLater([this, call] {
      call->OnCancel([this] { ++cancelled_; });
      call->OnMessage([this, call](const std::optional<Slice>& message) {
        RunLater([call, message] { message ? call->Send(MessageOf(*message)) : call->Finish(Status()); });
      });
    });
  });
  server->AddStream(prefix + "Deaf", [this](const std::shared_ptr<ServerCall>& call) {
    call->OnCancel([this, call] { ++cancelled_; });
  });
  server->AddStream(prefix + "EarlyError", [](const std::shared_ptr<ServerCall>& call) {
    call->OnMessage([call](const std::optional<Slice>&) {
      call->Finish({Code::kFailedPrecondition, "the first message was enough"});
    });
  });
}

void EchoMethods::RunLater(std::function<void()> work) {
  std::lock_guard<std::mutex> lock(mutex_);
  work_.push_back(std::move(work));
  wake_.notify_one();
}

void EchoMethods::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return ended_ || !work_.empty(); });
    if (work_.empty()) return;
    const std::function<void()> work = std::move(work_.front());
    work_.pop_front();
    lock.unlock();
    work();
    lock.lock();
  }
}

void EchoMethods::Join() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace mesh::rpc
