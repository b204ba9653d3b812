// A puller beside brokers that a test leads.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/puller.h"
#include "common/poll.h"
#include "pull_messages.h"
#include "rpc/server.h"

namespace mesh::broker {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

inline constexpr char kPull[] = "/mesh.broker.v1.Broker/Pull";
inline constexpr auto kPatience = seconds(30);

inline bool Eventually(const std::function<bool()>& look) { return PollUntil(steady_clock::now() + kPatience, look); }

// A broker that says what the test says, and notes what it hears.
class ScriptedBroker {
 public:
  explicit ScriptedBroker(std::string name, std::vector<std::string> journals)
      : name_(std::move(name)), journals_(std::move(journals)) {}
  ~ScriptedBroker() { Stop(); }

  void Start() {
    rpc::ServerOptions options;
    options.port = port_;
    server_ = std::make_unique<rpc::Server>(options);
    server_->AddStream(kPull, [this](const std::shared_ptr<rpc::ServerCall>& call) { Answer(call); });
    ASSERT_TRUE(Eventually([this] { return server_->Start().ok(); }));
    port_ = server_->port();
  }
  void Stop() {
    if (server_ != nullptr) server_->Stop();
    server_ = nullptr;
  }

  [[nodiscard]] proxy::Endpoint endpoint() const {
    proxy::Endpoint made;
    made.id = name_;
    made.address = "127.0.0.1:" + std::to_string(port_);
    made.protocol = "broker-grpc";
    made.role = "broker";
    made.before = {"it"};
    made.journals = journals_;
    made.ready = true;
    made.pid = 1;
    made.per_replica = per_replica;
    return made;
  }

  // What it says first from now on.
  void Welcome(const std::string& reply) {
    const std::lock_guard<std::mutex> lock(mutex_);
    welcome_ = reply;
  }
  void Say(std::string reply) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (call_ != nullptr) call_->Send(rpc::Message(std::move(reply)));
  }
  void Give(const WorkText& work) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      --credits_;
    }
    Say(work.Encode());
  }
  void HangUp() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (call_ != nullptr) call_->Finish({Code::kUnavailable, "not now"});
  }

  [[nodiscard]] int credits() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return credits_;
  }
  [[nodiscard]] std::vector<Heard> All(Heard::Kind kind) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<Heard> found;
    for (const Heard& one : heard_) {
      if (one.kind == kind) found.push_back(one);
    }
    return found;
  }
  [[nodiscard]] std::vector<Heard> hellos() const { return All(Heard::Kind::kHello); }
  [[nodiscard]] std::vector<Heard> grants() const { return All(Heard::Kind::kCredits); }
  [[nodiscard]] std::vector<Heard> done() const { return All(Heard::Kind::kDone); }
  [[nodiscard]] std::vector<Heard> progress() const { return All(Heard::Kind::kProgress); }

  int per_replica = 8;
  std::vector<std::string>& journals() { return journals_; }

 private:
  void Answer(const std::shared_ptr<rpc::ServerCall>& call) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      call_ = call;
      credits_ = 0;
    }
    call->OnMessage([this, call](const std::optional<rpc::Slice>& message) {
      if (!message) return call->Finish(Status());
      std::vector<Heard> heard;
      ReadRequests(protozero::pbf_reader(message->data(), message->size()), &heard);
      const std::lock_guard<std::mutex> lock(mutex_);
      for (Heard& one : heard) {
        // A copy of its own: strings of the old ABI share their bytes.
        if (one.kind == Heard::Kind::kHello) call->Send(rpc::Message(std::string(welcome_.data(), welcome_.size())));
        if (call == call_) credits_ += one.credits;
        heard_.push_back(std::move(one));
      }
    });
  }

  const std::string name_;
  std::vector<std::string> journals_;
  int port_ = 0;
  mutable std::mutex mutex_;
  std::shared_ptr<rpc::ServerCall> call_;
  std::string welcome_ = WelcomeText(15.0);
  int credits_ = 0;
  std::vector<Heard> heard_;
  std::unique_ptr<rpc::Server> server_;
};

// The replica's entry, which does what the request says.
class Runs {
 public:
  Status Serve(const std::shared_ptr<rpc::ServerCall>& call, const rpc::Slice& request) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (full > 0) {
      --full;
      return {Code::kResourceExhausted, "no room"};
    }
    ++begun;
    const std::string what(request.view());
    if (what == "refuse") {
      call->Finish({Code::kInvalidArgument, "wrong"});
    } else if (what == "away") {
      call->Finish({Code::kUnavailable, "not here"});
    } else if (what == "queue" || what == "in ensemble") {
      call->Finish({Code::kUnavailable, what + ": Exceeds maximum queue size"});
    } else if (what == "nothing") {
      call->Finish(Status());
    } else if (what == "wait" || what == "wait-parts") {
      call->OnCancel([this, call] {
        ++cancelled;
        call->Finish({Code::kCancelled, "told to"});
      });
      waiting_.push_back({call, what == "wait-parts"});
    } else if (what == "parts" || what == "break") {
      Stream(call, what);
    } else {
      call->Reply(rpc::Message("did " + what));
    }
    return {};
  }

  // Everything that waits ends well.
  void Go() {
    std::vector<Waiting> waiting;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      waiting.swap(waiting_);
    }
    for (const Waiting& one : waiting) one.call->Reply(rpc::Message(std::string("waited")));
  }
  [[nodiscard]] std::size_t waiting() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return waiting_.size();
  }

  std::atomic<int> full{0};
  std::atomic<int> begun{0};
  std::atomic<int> cancelled{0};

 private:
  struct Waiting {
    std::shared_ptr<rpc::ServerCall> call;
    bool parts;
  };

  static void Stream(const std::shared_ptr<rpc::ServerCall>& call, const std::string& what) {
    call->OnMessage([call, what](const std::optional<rpc::Slice>& message) {
      if (message) {
        ASSERT_EQ(message->view(), what);
        return;
      }
      for (int i = 0; i < 3; ++i) {
        std::string encoded;
        protozero::pbf_writer(encoded).add_message(2, "part " + std::to_string(i));
        call->Send(rpc::Message(std::move(encoded)));
      }
      call->Finish(what == "parts" ? Status() : Status(Code::kInternal, "it broke"));
    });
  }

  mutable std::mutex mutex_;
  std::vector<Waiting> waiting_;
};

class PullerTest : public testing::Test {
 protected:
  void SetUp() override {
    loop_ = rpc::EventLoop::Create("pull").value();
    loop_->Start();
    const auto serve = [this](const std::shared_ptr<rpc::ServerCall>& call, const rpc::Slice& request) {
      return runs_.Serve(call, request);
    };
    puller_ = std::make_shared<Puller>(Hello{"it-r3-0", "process", "it", 2, 3}, serve, loop_, std::nullopt, registry_);
    On([this] { puller_->SetOpen(true); });
  }
  void TearDown() override {
    On([this] { puller_->Close(); });
    runs_.Go();
    loop_->Stop();
  }

  void On(const std::function<void()>& work) { loop_->PostAndWait(work); }
  void Apply(const std::vector<ScriptedBroker*>& brokers) {
    std::vector<proxy::Endpoint> endpoints;
    endpoints.reserve(brokers.size());
    for (const ScriptedBroker* broker : brokers) endpoints.push_back(broker->endpoint());
    On([&] { puller_->Apply(endpoints); });
  }
  void Connect(ScriptedBroker& broker) {
    broker.Start();
    Apply({&broker});
    ASSERT_TRUE(Eventually([&] { return broker.credits() > 0; })) << "credits";
  }
  bool Idle() {
    return Eventually([this] {
      bool idle = false;
      On([&] { idle = puller_->idle(); });
      return idle;
    });
  }
  static void Store(ScriptedBroker& broker) {
    for (const Heard& done : broker.done()) broker.Say(StoredText(done.key));
  }
  [[nodiscard]] std::uint64_t Count(const char* outcome) {
    return registry_.GetCounter("mesh_pull_items_total", "", {{"outcome", outcome}}).value();
  }

  metrics::Registry registry_;
  Runs runs_;
  std::shared_ptr<rpc::EventLoop> loop_;
  std::shared_ptr<Puller> puller_;
};

}  // namespace mesh::broker
