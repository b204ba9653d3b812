// What a program needs that passes calls on: a server and its channels on one loop, calls that can be cancelled, and
// both directions of flow control.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/poll.h"
#include "rpc/client.h"
#include "rpc/event_loop.h"
#include "rpc/server.h"

namespace mesh::rpc {
namespace {

using std::chrono::seconds;

// What became of a call, for the test's thread to wait for.
class Ending {
 public:
  StreamCallbacks Callbacks() {
    StreamCallbacks callbacks;
    callbacks.on_message = [this](const Slice& message) {
      const std::lock_guard<std::mutex> lock(mutex_);
      messages_.emplace_back(message.view());
    };
    callbacks.on_done = [this](Status status, Metadata trailers) {
      const std::lock_guard<std::mutex> lock(mutex_);
      status_ = std::move(status);
      trailers_ = std::move(trailers);
      ended_.notify_all();
    };
    return callbacks;
  }

  Status Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!ended_.wait_for(lock, seconds(60), [this] { return status_.has_value(); })) {
      return {Code::kDeadlineExceeded, "the call did not end"};
    }
    return *status_;
  }
  [[nodiscard]] const std::vector<std::string>& messages() const { return messages_; }
  [[nodiscard]] const Metadata& trailers() const { return trailers_; }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  std::optional<Status> status_;
  std::vector<std::string> messages_;
  Metadata trailers_;
};

class ForwardingTest : public testing::Test {
 protected:
  void SetUp() override {
    server_ = std::make_unique<Server>(ServerOptions());
    server_->AddUnary("/t/Echo", [](const std::shared_ptr<ServerCall>& call, const Slice& request) {
      Message answer;
      answer.Append(request);
      call->Send(std::move(answer));
      call->Finish(Status(), {{"trailer", "seen"}});
    });
    server_->AddUnary("/t/Refuse", [](const std::shared_ptr<ServerCall>& call, const Slice&) {
      call->Finish({Code::kUnavailable, "not now"});
    });
    server_->AddUnary("/t/Never", [this](const std::shared_ptr<ServerCall>& call, const Slice&) {
      call->OnCancel([this] { ++cancelled_; });
      never_ = call;
      ++waiting_;
    });
    server_->AddStream("/t/Slow", [this](const std::shared_ptr<ServerCall>& call) {
      call->OnMessage([this, call](const std::optional<Slice>& message) {
        if (!message) return call->Finish(Status());
        received_ += message->size();
        call->PauseMessages(true);
        slow_ = call;
      });
    });
    ASSERT_TRUE(server_->Prepare().ok());
    ASSERT_TRUE(server_->Prepare().ok()) << "a repetition does nothing";
    EXPECT_GT(server_->port(), 0);
    // On the server's own loop, as a proxy does it.
    channel_ = Channel::Create(server_->address(), ChannelOptions(), server_->loop());
    ASSERT_TRUE(server_->Start().ok());
  }

  void TearDown() override {
    never_.reset();
    slow_.reset();
    server_->Stop();
    channel_->Close();
  }

  template <typename Fact>
  static bool Eventually(Fact fact) {
    return PollUntil(std::chrono::steady_clock::now() + seconds(60), fact);
  }

  std::atomic<int> cancelled_{0};
  std::atomic<int> waiting_{0};
  std::atomic<std::size_t> received_{0};
  std::shared_ptr<ServerCall> never_;
  std::shared_ptr<ServerCall> slow_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

TEST_F(ForwardingTest, AskSeesTheAnswerAndItsTrailers) {
  Ending ending;
  const auto call = channel_->Ask("/t/Echo", Message("hello"), CallOptions(), ending.Callbacks());
  EXPECT_TRUE(ending.Wait().ok());
  EXPECT_EQ(ending.messages(), std::vector<std::string>{"hello"});
  EXPECT_EQ(ending.trailers(), (Metadata{{"trailer", "seen"}}));
  EXPECT_TRUE(call->answered());
}

TEST_F(ForwardingTest, AnsweredTellsTheServersWordsFromOurOwn) {
  Ending refused;
  const auto call = channel_->Ask("/t/Refuse", Message(), CallOptions(), refused.Callbacks());
  EXPECT_EQ(refused.Wait().code(), Code::kUnavailable);
  EXPECT_TRUE(call->answered());
  const auto nobody = Channel::Create("127.0.0.1:1", ChannelOptions(), server_->loop());
  Ending lost;
  const auto other = nobody->Ask("/t/Echo", Message(), CallOptions(), lost.Callbacks());
  EXPECT_EQ(lost.Wait().code(), Code::kUnavailable);
  EXPECT_FALSE(other->answered());
  nobody->Close();
}

TEST_F(ForwardingTest, AskCanBeCancelled) {
  Ending ending;
  const auto call = channel_->Ask("/t/Never", Message(), CallOptions(), ending.Callbacks());
  ASSERT_TRUE(Eventually([this] { return waiting_ == 1; }));
  call->Cancel();
  EXPECT_EQ(ending.Wait().code(), Code::kCancelled);
  EXPECT_TRUE(Eventually([this] { return cancelled_ == 1; })) << "the server is told";
}

TEST_F(ForwardingTest, WhoPausesIsSentNoMoreThanAWindow) {
  Ending ending;
  std::atomic<int> sent{0};
  StreamCallbacks callbacks = ending.Callbacks();
  callbacks.on_sent = [&sent] { ++sent; };
  const auto call = channel_->Stream("/t/Slow", CallOptions(), std::move(callbacks));
  constexpr std::size_t kEach = 100'000;
  constexpr int kMessages = 100;
  for (int i = 0; i < kMessages; ++i) call->Send(Message(std::string(kEach, 'x')));
  call->HalfClose();
  ASSERT_TRUE(Eventually([this] { return received_ == kEach; }));
  EXPECT_GT(call->unsent_bytes(), kEach * kMessages / 2) << "the rest waits here";
  const int before = sent;  // the first messages may have gone out before the others were queued
  for (int i = 1; i < kMessages; ++i) {
    server_->loop()->PostAndWait([this] { slow_->PauseMessages(false); });
    ASSERT_TRUE(Eventually([this, i] { return received_ == kEach * (i + 1); })) << i;
  }
  server_->loop()->PostAndWait([this] { slow_->PauseMessages(false); });
  EXPECT_TRUE(ending.Wait().ok());
  EXPECT_GT(sent, before);
}

}  // namespace
}  // namespace mesh::rpc
