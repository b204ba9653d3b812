// What a request that goes through a broker asks it, and what it makes of the answers.
#include "proxy/queued_call.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/poll.h"
#include "rpc/client.h"

namespace mesh::proxy {
namespace {

constexpr char kModelInfer[] = "/inference.GRPCInferenceService/ModelInfer";
constexpr char kCall[] = "/mesh.broker.v1.Broker/Call";
constexpr auto kPatience = std::chrono::seconds(60);

// What a broker reads of a SubmitRequest.
struct Asked {
  std::string key;
  bool new_key = false;
};

Asked ReadAsked(const rpc::Slice& bytes) {
  Asked asked;
  protozero::pbf_reader reader(bytes.data(), bytes.size());
  while (reader.next()) {
    switch (reader.tag()) {
      case 4: asked.key = reader.get_string(); break;
      case 11: asked.new_key = reader.get_bool(); break;
      default: reader.skip();
    }
  }
  return asked;
}

rpc::Message TakenText(bool repeated) {
  std::string taken;
  protozero::pbf_writer out(taken);
  out.add_string(1, "j.1.secret");
  out.add_bool(2, repeated);
  std::string reply;
  protozero::pbf_writer(reply).add_message(3, taken);
  return rpc::Message(std::move(reply));
}

rpc::Message EndedText(const std::string& answer) {
  std::string result;
  protozero::pbf_writer(result).add_bytes(1, answer);
  std::string item;
  protozero::pbf_writer out(item);
  out.add_string(2, "j.1");
  out.add_enum(3, 3);  // SUCCEEDED
  out.add_message(15, result);
  std::string reply;
  protozero::pbf_writer(reply).add_message(2, item);
  return rpc::Message(std::move(reply));
}

enum class Does : std::uint8_t { kTakes, kRepeats, kRepeatsAndHolds, kRefuses };

// A broker that does what the test says next, and notes what it is asked.
class ScriptedBroker {
 public:
  ScriptedBroker() : server_(rpc::ServerOptions()) {
    server_.AddStream(kCall, [this](const std::shared_ptr<rpc::ServerCall>& call) {
      call->OnMessage([this, call](const std::optional<rpc::Slice>& message) {
        if (message) Answer(call, *message);
      });
    });
  }
  ~ScriptedBroker() { server_.Stop(); }
  ScriptedBroker(const ScriptedBroker&) = delete;
  ScriptedBroker& operator=(const ScriptedBroker&) = delete;

  [[nodiscard]] Status Start() { return server_.Start(); }
  void Next(std::deque<Does> script) {
    const std::lock_guard<std::mutex> lock(mutex_);
    script_ = std::move(script);
  }
  // What was held ends well.
  void LetGo() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (held_ != nullptr) held_->Reply(EndedText("another one's"));
    held_ = nullptr;
  }
  [[nodiscard]] int cancelled() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return cancelled_;
  }
  [[nodiscard]] std::vector<Asked> asked() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return asked_;
  }
  [[nodiscard]] Endpoint endpoint() const {
    Endpoint made;
    made.id = "queue-r1-0";
    made.address = server_.address();
    made.role = kBrokerRole;
    made.deployment = "queue";
    made.journals = {"j"};
    made.pulled = {"reader"};
    made.ready = true;
    return made;
  }

 private:
  void Answer(const std::shared_ptr<rpc::ServerCall>& call, const rpc::Slice& message) {
    const std::lock_guard<std::mutex> lock(mutex_);
    asked_.push_back(ReadAsked(message));
    Does does = Does::kTakes;
    if (!script_.empty()) {
      does = script_.front();
      script_.pop_front();
    }
    if (does == Does::kRefuses) return call->Finish({Code::kUnavailable, "it takes no new requests"});
    call->Send(TakenText(does != Does::kTakes));
    if (does != Does::kRepeatsAndHolds) return call->Reply(EndedText("answer"));
    held_ = call;
    call->OnCancel([this] {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++cancelled_;
    });
  }

  mutable std::mutex mutex_;
  std::deque<Does> script_;
  std::vector<Asked> asked_;
  std::shared_ptr<rpc::ServerCall> held_;
  int cancelled_ = 0;
  rpc::Server server_;
};

// A proxy whose requests all go through the broker.
class QueuedCallTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(broker_.Start().ok());
    front_.AddUnary(kModelInfer, [this](const std::shared_ptr<rpc::ServerCall>& call, rpc::Slice request) {
      std::make_shared<QueuedCall>(core_, call, std::move(request), RequestHead(), "reader")->Start();
    });
    ASSERT_TRUE(front_.Prepare().ok());
    core_.loop = front_.loop();
    core_.brokers = std::make_unique<Brokers>([this](const Endpoint& endpoint) {
      return rpc::Channel::Create(endpoint.address, rpc::ChannelOptions(), core_.loop);
    });
    core_.brokers->SetEndpoints({broker_.endpoint()});
    ASSERT_TRUE(front_.Start().ok());
    client_ = rpc::Channel::Create(front_.address(), rpc::ChannelOptions());
  }
  void TearDown() override {
    broker_.LetGo();
    client_->Close();
    core_.loop->PostAndWait([this] { core_.brokers->Close(); });
    front_.Stop();
  }

  Result<rpc::Slice> Infer() {
    rpc::CallOptions options;
    options.timeout = kPatience;
    options.wait_for_ready = true;
    return client_->CallAndWait(kModelInfer, rpc::Message("tensors"), std::move(options));
  }
  [[nodiscard]] std::size_t Waiting() {
    std::size_t calls = 0;
    core_.loop->PostAndWait([&] { calls = core_.brokers->calls(); });
    return calls;
  }

  ScriptedBroker broker_;
  metrics::Registry registry_;
  Core core_{registry_, routing::Policy()};
  rpc::Server front_{rpc::ServerOptions()};
  std::shared_ptr<rpc::Channel> client_;
};

TEST_F(QueuedCallTest, EachRequestHasAKeyOfItsOwnThatIsNotLookedFor) {
  constexpr std::size_t kRequests = 100;
  for (std::size_t i = 0; i < kRequests; ++i) {
    const Result<rpc::Slice> answer = Infer();
    ASSERT_TRUE(answer.ok()) << answer.status().ToString();
    EXPECT_EQ(answer.value().view(), "answer");
  }
  std::set<std::string> keys;
  for (const Asked& asked : broker_.asked()) {
    EXPECT_TRUE(asked.new_key);
    EXPECT_EQ(asked.key.size(), 32U);
    EXPECT_EQ(asked.key.find_first_not_of("0123456789abcdef"), std::string::npos) << asked.key;
    keys.insert(asked.key);
  }
  EXPECT_EQ(keys.size(), kRequests);
}

TEST_F(QueuedCallTest, OneThatIsAskedAgainIsLookedForAndMayBeKnown) {
  broker_.Next({Does::kRefuses, Does::kRepeats});
  const Result<rpc::Slice> answer = Infer();
  ASSERT_TRUE(answer.ok()) << answer.status().ToString();
  const std::vector<Asked> asked = broker_.asked();
  ASSERT_EQ(asked.size(), 2U);
  EXPECT_EQ(asked[0].key, asked[1].key);
  EXPECT_TRUE(asked[0].new_key);
  EXPECT_FALSE(asked[1].new_key);
}

TEST_F(QueuedCallTest, TheResultOfAnotherRequestIsNotHandedOver) {
  broker_.Next({Does::kRepeats});
  const Status status = Infer().status();
  EXPECT_EQ(status.code(), Code::kUnavailable) << status.ToString();
  EXPECT_NE(status.message().find("queue-r1-0"), std::string::npos) << status.message();
  EXPECT_EQ(broker_.asked().size(), 1U);
}

TEST_F(QueuedCallTest, TheItemOfAnotherRequestIsNotCancelled) {
  broker_.Next({Does::kRepeatsAndHolds});
  EXPECT_EQ(Infer().status().code(), Code::kUnavailable);
  EXPECT_EQ(Waiting(), 0U);
  ASSERT_TRUE(Infer().ok()) << "on the same connection, so a cancellation would have been seen before";
  EXPECT_EQ(broker_.cancelled(), 0);
}

}  // namespace
}  // namespace mesh::proxy
