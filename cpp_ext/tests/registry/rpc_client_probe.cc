// A gRPC client that does what its standard input says, for tests against servers that grpcio or a hostile script
// plays.
//
// Argument: {"address": .., "ca": .., "cert": .., "private_key": .., "server_name": .., <durations of ChannelOptions in
// ms>, "max_message_bytes": .., "shared_loop": ..}. Commands are JSON lines with "op" and "id": unary, stream, send,
// half_close, cancel, pause, resume, close. Events are JSON lines: {"id", "event": "message", "bytes"} and {"id",
// "event": "done", "code", "message", "not_processed", "trailers"}; bytes travel as hexadecimal text.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>

#include "common/json.h"
#include "rpc/client.h"
#include "rpc/event_loop.h"

namespace {

using mesh::Status;
using mesh::rpc::Slice;
using nlohmann::json;

std::string ToHex(std::string_view bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const char c : bytes) {
    out += kDigits[static_cast<unsigned char>(c) >> 4];
    out += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return out;
}

std::string FromHex(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at + 1 < text.size(); at += 2) {
    out += static_cast<char>(std::stoi(text.substr(at, 2), nullptr, 16));
  }
  return out;
}

void Emit(const json& event) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  std::cout << mesh::json::Dump(event) << std::endl;
}

void EmitDone(std::int64_t id, const Status& status, const mesh::rpc::Metadata& trailers) {
  json list = json::array();
  for (const auto& [key, value] : trailers) list.push_back({key, ToHex(value)});
  Emit({{"id", id},
        {"event", "done"},
        {"code", CodeName(status.code())},
        {"message", status.message()},
        {"not_processed", mesh::rpc::WasNotProcessed(status)},
        {"trailers", list}});
}

void EmitMessage(std::int64_t id, const Slice& bytes) {
  // Large messages are described, not written out.
  const std::string_view shown = bytes.view().substr(0, 4096);
  Emit({{"id", id}, {"event", "message"}, {"bytes", ToHex(shown)}, {"size", bytes.size()}});
}

mesh::rpc::ChannelOptions ReadOptions(mesh::json::Fields& in) {
  using std::chrono::milliseconds;
  mesh::rpc::ChannelOptions options;
  if (!in.Text("ca").empty()) {
    options.tls = mesh::rpc::TlsOptions{in.Text("cert"), in.Text("private_key"), in.Text("ca")};
  }
  options.server_name = in.Text("server_name");
  if (in.Has("max_message_bytes")) options.max_message_bytes = static_cast<std::size_t>(in.Int("max_message_bytes"));
  if (in.Has("connect_timeout_ms")) options.connect_timeout = milliseconds(in.Int("connect_timeout_ms"));
  if (in.Has("min_backoff_ms")) options.min_backoff = milliseconds(in.Int("min_backoff_ms"));
  if (in.Has("keepalive_interval_ms")) options.keepalive_interval = milliseconds(in.Int("keepalive_interval_ms"));
  if (in.Has("keepalive_timeout_ms")) options.keepalive_timeout = milliseconds(in.Int("keepalive_timeout_ms"));
  return options;
}

class Probe {
 public:
  explicit Probe(mesh::json::Fields& in) {
    if (in.Flag("shared_loop")) {
      const auto created = mesh::rpc::EventLoop::Create("shared");
      if (!created.ok()) std::abort();
      loop_ = created.value();
      loop_->Start();
    }
    channel_ = mesh::rpc::Channel::Create(in.Text("address"), ReadOptions(in), loop_);
  }
  ~Probe() {
    channel_->Close();
    if (loop_ != nullptr) loop_->Stop();
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  void Do(const json& command) {
    mesh::json::Fields in(command);
    const std::string op = in.Text("op");
    const std::int64_t id = in.Int("id");
    if (op == "unary") {
      channel_->Unary(in.Text("path"), Payload(in), Options(in), [id](const Status& status, const Slice& answer) {
        if (status.ok()) EmitMessage(id, answer);
        EmitDone(id, status, {});
      });
    } else if (op == "stream") {
      mesh::rpc::StreamCallbacks callbacks;
      callbacks.on_message = [id](const Slice& message) { EmitMessage(id, message); };
      callbacks.on_done = [id](const Status& status, const mesh::rpc::Metadata& trailers) {
        EmitDone(id, status, trailers);
      };
      calls_[id] = channel_->Stream(in.Text("path"), Options(in), std::move(callbacks));
    } else if (op == "close") {
      channel_->Close();
    } else if (calls_.count(id) > 0) {
      if (op == "send") calls_[id]->Send(Payload(in));
      if (op == "half_close") calls_[id]->HalfClose();
      if (op == "cancel") calls_[id]->Cancel();
      if (op == "pause" || op == "resume") calls_[id]->PauseReading(op == "pause");
    }
  }

 private:
  static mesh::rpc::Message Payload(mesh::json::Fields& in) {
    if (in.Has("size")) return mesh::rpc::Message(std::string(static_cast<std::size_t>(in.Int("size")), 'x'));
    return mesh::rpc::Message(FromHex(in.Text("bytes")));
  }

  static mesh::rpc::CallOptions Options(mesh::json::Fields& in) {
    mesh::rpc::CallOptions options;
    if (in.Has("timeout_ms")) options.timeout = std::chrono::milliseconds(in.Int("timeout_ms"));
    options.wait_for_ready = in.Flag("wait_for_ready");
    for (const auto& [key, value] : in.Map("metadata")) options.metadata.emplace_back(key, FromHex(value));
    return options;
  }

  std::shared_ptr<mesh::rpc::EventLoop> loop_;  // null: the channel has its own
  std::shared_ptr<mesh::rpc::Channel> channel_;
  std::map<std::int64_t, std::shared_ptr<mesh::rpc::ClientCall>> calls_;
};

int Run(int argc, char** argv) {
  const auto config = mesh::json::Parse(argc > 1 ? argv[1] : "", "the argument");
  if (!config.ok()) {
    std::cerr << config.status().ToString() << std::endl;
    return 2;
  }
  mesh::json::Fields in(config.value());
  Probe probe(in);
  for (std::string line; std::getline(std::cin, line);) {
    const auto command = mesh::json::Parse(line, "the command");
    if (!command.ok()) return 2;
    probe.Do(command.value());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rpc_client_probe: %s\n", error.what());
    return 3;
  }
}
