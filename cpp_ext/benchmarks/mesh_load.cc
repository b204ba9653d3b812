// A load generator for gRPC that costs little, so that the server is what is measured.
//
//   mesh_load rate    --address=A --request=FILE --deadline-ms=D --connections=C --plan=RATE:SECONDS,RATE:SECONDS
//   mesh_load closed  --address=A --request=FILE --connections=C --clients=N --requests=M
//   mesh_load streams --address=A --request=FILE --connections=C --streams=N --responses=R --seconds=S
//
// `rate` sends the encoded ModelInferRequest of FILE at the planned rates, whether or not answers come (open loop), and
// prints load_report.h's JSON. `closed` holds N requests in flight until M are answered, and prints {"seconds",
// "p50_us", "p99_us"}; a request that fails ends it. `streams` holds N ModelStreamInfer calls, sends each the next
// request when R responses have come, and prints {"messages", "seconds"} of the given seconds, and "total", with what
// came until all streams had ended in good order.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "benchmarks/load_report.h"
#include "common/file.h"
#include "common/poll.h"
#include "rpc/client.h"

namespace {

using mesh::Status;
using mesh::load::Report;
using mesh::rpc::Channel;
using std::chrono::steady_clock;
using Flags = std::map<std::string, std::string>;
using Channels = std::vector<std::shared_ptr<Channel>>;

constexpr char kInfer[] = "/inference.GRPCInferenceService/ModelInfer";
constexpr char kStream[] = "/inference.GRPCInferenceService/ModelStreamInfer";
constexpr std::chrono::seconds kLastAnswers{30};
constexpr std::chrono::minutes kLongestRun{10};

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "mesh_load: %s\n", why.c_str());
  std::exit(2);
}

const std::string& Get(const Flags& flags, const std::string& name) {
  const auto found = flags.find(name);
  if (found == flags.end()) Fail("--" + name + "=... is missing");
  return found->second;
}

int Number(const Flags& flags, const std::string& name) {
  const int value = std::atoi(Get(flags, name).c_str());
  if (value <= 0) Fail("--" + name + " must be a positive number");
  return value;
}

Flags ParseFlags(int argc, char** argv) {
  Flags flags;
  for (int i = 2; i < argc; ++i) {
    const std::string text = argv[i];
    const std::size_t equals = text.find('=');
    if (text.rfind("--", 0) != 0 || equals == std::string::npos) Fail("unknown argument " + text);
    flags[text.substr(2, equals - 2)] = text.substr(equals + 1);
  }
  return flags;
}

std::string ReadRequest(const Flags& flags) {
  mesh::Result<std::string> request = mesh::ReadFile(Get(flags, "request"));
  if (!request.ok()) Fail(request.status().ToString());
  return std::move(request).value();
}

// Connected ones: what is measured later is no connecting.
Channels Connect(const Flags& flags) {
  Channels channels;
  for (int left = Number(flags, "connections"); left > 0; --left) {
    channels.push_back(Channel::Create(Get(flags, "address"), {}));
    mesh::rpc::CallOptions options;
    options.timeout = std::chrono::seconds(10);
    options.wait_for_ready = true;
    const auto live = channels.back()->CallAndWait("/inference.GRPCInferenceService/ServerLive", {}, options);
    if (!live.ok()) Fail(live.status().ToString());
  }
  return channels;
}

struct Phase {
  double rate;
  double seconds;
};

std::vector<Phase> ParsePlan(const std::string& text) {
  std::vector<Phase> plan;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    Phase phase{};
    if (std::sscanf(part.c_str(), "%lf:%lf", &phase.rate, &phase.seconds) != 2 || phase.rate <= 0) {
      Fail("--plan has the part '" + part + "', it wants RATE:SECONDS");
    }
    plan.push_back(phase);
  }
  return plan;
}

steady_clock::duration Seconds(double seconds) {
  return std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(seconds));
}

int RunRate(const Flags& flags) {
  const mesh::rpc::Slice request = mesh::rpc::Slice::Own(ReadRequest(flags));
  const std::vector<Phase> plan = ParsePlan(Get(flags, "plan"));
  const Channels channels = Connect(flags);
  mesh::rpc::CallOptions options;
  options.timeout = std::chrono::milliseconds(Number(flags, "deadline-ms"));
  const auto start = steady_clock::now();
  Report report(start);
  auto phase_start = start;
  std::size_t next = 0;
  for (const Phase& phase : plan) {
    const auto count = static_cast<std::uint64_t>(phase.rate * phase.seconds);
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto due = phase_start + Seconds(static_cast<double>(i) / phase.rate);
      std::this_thread::sleep_until(due);
      // Latency counts from when it was due: a generator that is late must not flatter the server.
      report.Sent(due);
      mesh::rpc::Message message;
      message.Append(request);
      channels[next++ % channels.size()]->Unary(
          kInfer, std::move(message), options,
          [&report, due](const Status& status, const mesh::rpc::Slice&) { report.Done(due, status); });
    }
    phase_start += Seconds(phase.seconds);
  }
  // Whatever has not come by then is counted as not answered.
  static_cast<void>(mesh::PollUntil(steady_clock::now() + kLastAnswers, [&] { return report.complete(); }));
  for (const auto& channel : channels) channel->Close();
  std::printf("%s\n", report.Json().c_str());
  return 0;
}

// Clients that each send the next request when the last one is answered.
class ClosedLoop {
 public:
  ClosedLoop(mesh::rpc::Slice request, std::size_t requests) : request_(std::move(request)), took_us_(requests) {
    options_.timeout = kLastAnswers;
  }

  // False when answers are missing. May be called once.
  bool Run(const Channels& channels, int clients) {
    start_ = steady_clock::now();
    for (int i = 0; i < clients; ++i) Ask(*channels[static_cast<std::size_t>(i) % channels.size()]);
    return mesh::PollUntil(start_ + kLongestRun, [this] { return over_.load(); });
  }
  // After Run.
  void Print() {
    std::sort(took_us_.begin(), took_us_.end());
    const double seconds = std::chrono::duration<double>(end_ - start_).count();
    std::printf("{\"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", seconds, Quantile(0.5), Quantile(0.99));
  }

 private:
  void Ask(Channel& channel) {
    const std::size_t number = asked_.fetch_add(1);
    if (number >= took_us_.size()) return;
    mesh::rpc::Message message;
    message.Append(request_);
    const auto sent = steady_clock::now();
    channel.Unary(kInfer, std::move(message), options_,
                  [this, &channel, number, sent](const Status& status, const mesh::rpc::Slice&) {
                    if (!status.ok()) Fail("a request failed: " + status.ToString());
                    const auto now = steady_clock::now();
                    took_us_[number] = std::chrono::duration<double, std::micro>(now - sent).count();
                    Ask(channel);
                    if (answered_.fetch_add(1) + 1 < took_us_.size()) return;
                    end_ = now;
                    over_.store(true);
                  });
  }

  [[nodiscard]] double Quantile(double share) const {
    return took_us_[static_cast<std::size_t>(share * static_cast<double>(took_us_.size() - 1))];
  }

  const mesh::rpc::Slice request_;
  mesh::rpc::CallOptions options_;
  std::vector<double> took_us_;  // of each request by its number
  std::atomic<std::size_t> asked_{0};
  std::atomic<std::size_t> answered_{0};
  std::atomic<bool> over_{false};
  steady_clock::time_point start_;
  steady_clock::time_point end_;
};

int RunClosed(const Flags& flags) {
  ClosedLoop loop(mesh::rpc::Slice::Own(ReadRequest(flags)), static_cast<std::size_t>(Number(flags, "requests")));
  const Channels channels = Connect(flags);
  const bool answered = loop.Run(channels, Number(flags, "clients"));
  for (const auto& channel : channels) channel->Close();
  if (!answered) Fail("answers are missing");
  loop.Print();
  return 0;
}

// Streams that are never without a request until Stop.
class Streams {
 public:
  Streams(mesh::rpc::Slice request, int responses, std::size_t count)
      : request_(std::move(request)), responses_(responses), streams_(count), open_(count) {}

  void Start(const Channels& channels) {
    for (std::size_t i = 0; i < streams_.size(); ++i) Open(&streams_[i], *channels[i % channels.size()]);
    for (Stream& stream : streams_) Ask(&stream);
  }
  // False when streams do not end in time.
  bool Stop() {
    over_.store(true);
    return mesh::PollUntil(steady_clock::now() + kLastAnswers, [this] { return open_.load() == 0; });
  }
  [[nodiscard]] std::uint64_t messages() const { return messages_.load(); }

 private:
  struct Stream {
    std::shared_ptr<mesh::rpc::ClientCall> call;
    int left = 0;  // responses to its request
  };

  void Open(Stream* stream, Channel& channel) {
    stream->left = responses_;
    mesh::rpc::StreamCallbacks callbacks;
    callbacks.on_message = [this, stream](const mesh::rpc::Slice&) { Answered(stream); };
    callbacks.on_done = [this](const Status& status, const mesh::rpc::Metadata&) {
      if (!over_.load() || !status.ok()) Fail("a stream ended: " + status.ToString());
      open_.fetch_sub(1);
    };
    stream->call = channel.Stream(kStream, {}, std::move(callbacks));
  }

  void Ask(Stream* stream) {
    mesh::rpc::Message message;
    message.Append(request_);
    stream->call->Send(std::move(message));
  }

  void Answered(Stream* stream) {
    messages_.fetch_add(1, std::memory_order_relaxed);
    if (--stream->left > 0) return;
    if (over_.load()) return stream->call->HalfClose();
    stream->left = responses_;
    Ask(stream);
  }

  const mesh::rpc::Slice request_;
  const int responses_;
  std::vector<Stream> streams_;
  std::atomic<std::uint64_t> messages_{0};
  std::atomic<bool> over_{false};
  std::atomic<std::size_t> open_;
};

int RunStreams(const Flags& flags) {
  Streams streams(mesh::rpc::Slice::Own(ReadRequest(flags)), Number(flags, "responses"),
                  static_cast<std::size_t>(Number(flags, "streams")));
  const Channels channels = Connect(flags);
  streams.Start(channels);
  const auto start = steady_clock::now();
  std::this_thread::sleep_for(std::chrono::seconds(Number(flags, "seconds")));
  const std::uint64_t count = streams.messages();
  const double took = std::chrono::duration<double>(steady_clock::now() - start).count();
  const bool ended = streams.Stop();
  for (const auto& channel : channels) channel->Close();
  if (!ended) Fail("streams did not end");
  std::printf("{\"messages\": %llu, \"seconds\": %.3f, \"total\": %llu}\n", static_cast<unsigned long long>(count),
              took, static_cast<unsigned long long>(streams.messages()));
  return 0;
}

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): a load generator may end so
int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "rate") return RunRate(ParseFlags(argc, argv));
  if (mode == "closed") return RunClosed(ParseFlags(argc, argv));
  if (mode == "streams") return RunStreams(ParseFlags(argc, argv));
  Fail("unknown mode '" + mode + "', known: rate, closed, streams");
}
