// The parts around user code that need no library.
#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "user_code/settings.h"
#include "user_code/signature.h"
#include "user_code/threads.h"
#include "user_code/wire.h"

namespace mesh::user {
namespace {

using nlohmann::json;

TEST(SettingsText, KeepsTheTypesOfMembers) {
  const Result<SettingsText> read =
      SettingsText::Read(R"({"a": true, "b": 3, "c": 2.0, "d": "x", "e": [1, 2], "f": null})", "args");
  ASSERT_TRUE(read.ok());
  const MeshSettings view = read.value().view();
  std::vector<std::int32_t> kinds;
  for (std::size_t i = 0; i < view.count; ++i) kinds.push_back(view.values[i].kind);
  EXPECT_EQ(kinds, (std::vector<std::int32_t>{MESH_BOOL, MESH_INTEGER, MESH_NUMBER, MESH_TEXT, MESH_JSON, MESH_JSON}));
  EXPECT_EQ(std::string(view.values[4].text.data, view.values[4].text.size), "[1,2]");
  EXPECT_EQ(SettingsText::Read("", "args").value().view().count, 0U);
  EXPECT_EQ(SettingsText::Read("[1]", "args").status().code(), Code::kInvalidArgument);
}

Signature Described(const char* datatype, std::vector<std::int64_t> shape, bool output = true) {
  Signature signature;
  const MeshSignatureSink sink = signature.sink();
  sink.input(sink.self, "x", datatype, shape.data(), shape.size(), 1);
  const std::int64_t dim = -1;
  if (output) sink.output(sink.self, "y", "BYTES", &dim, 1);
  sink.streamed(sink.self);
  return signature;
}

TEST(Signature, IsTheConfigurationOfAModel) {
  const Result<std::string> config = Described("FP32", {-1, 4}).ModelConfig("it", 3);
  ASSERT_TRUE(config.ok()) << config.status().message();
  const json parsed = json::parse(config.value());
  EXPECT_EQ(parsed["input"][0], json::parse(R"({"name":"x","data_type":"TYPE_FP32","dims":[-1,4],"optional":true})"));
  EXPECT_EQ(parsed["output"][0]["data_type"], "TYPE_STRING");
  EXPECT_EQ(parsed["instance_group"][0]["count"], 3);
  EXPECT_EQ(parsed["model_transaction_policy"]["decoupled"], true);
}

TEST(Signature, NamesWhatIsWrong) {
  EXPECT_NE(Described("FLOAT", {1}).ModelConfig("it", 1).status().message().find("'FLOAT'"), std::string::npos);
  EXPECT_NE(Described("FP32", {-2}).ModelConfig("it", 1).status().message().find("-2"), std::string::npos);
  EXPECT_NE(Described("FP32", {}).ModelConfig("it", 1).status().message().find("{1}"), std::string::npos);
  EXPECT_NE(Described("FP32", {1}, false).ModelConfig("it", 1).status().message().find("outputs"), std::string::npos);
}

TEST(Threads, RunsAllThatIsPosted) {
  std::atomic<int> ran{0};
  {
    Threads threads("test", 4);
    for (int i = 0; i < 1000; ++i) {
      threads.Post([&, i] {
        ++ran;
        if (i % 10 == 0) threads.Post([&] { ++ran; });
      });
    }
  }
  EXPECT_EQ(ran.load(), 1100);
}

TEST(Wire, ReadsItsOwnTensors) {
  const float values[] = {1, 2};
  const std::int64_t shape[] = {2};
  const MeshTensor input{"x", "FP32", shape, 1, values, sizeof values};
  MeshQuestion question{};
  question.model = "m";
  question.version = question.id = "";
  question.inputs = &input;
  question.input_count = 1;
  const Result<std::string> encoded = EncodeQuestion(question);
  ASSERT_TRUE(encoded.ok());
  EXPECT_NE(encoded.value().find(std::string(reinterpret_cast<const char*>(values), sizeof values)), std::string::npos);
  // Tensor 5 with name, type and shape, and raw contents 6: the answer's own numbers.
  const std::string answer(
      "\x2a\x0a\x0a\x01y\x12\x02I8\x1a\x01\x03\x32\x03"
      "abc",
      17);
  const Result<std::unique_ptr<MeshReply>> reply = DecodeReply(rpc::Slice::Own(answer));
  ASSERT_TRUE(reply.ok()) << reply.status().message();
  ASSERT_EQ(reply.value()->outputs.size(), 1U);
  const MeshTensor& output = reply.value()->outputs[0];
  EXPECT_STREQ(output.name, "y");
  EXPECT_STREQ(output.datatype, "I8");
  EXPECT_EQ(output.shape[0], 3);
  EXPECT_EQ(std::string(static_cast<const char*>(output.data), output.size), "abc");
}

TEST(Wire, RefusesWhatIsNoAnswer) {
  EXPECT_EQ(DecodeReply(rpc::Slice::Own("\xff\xff\xff")).status().code(), Code::kDataLoss);
  EXPECT_EQ(DecodeReply(rpc::Slice::Own(std::string("\x2a\x03\x0a\x01y", 5))).status().code(), Code::kUnimplemented);
}

}  // namespace
}  // namespace mesh::user
