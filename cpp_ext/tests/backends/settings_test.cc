#include "backends/openvino/settings.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "backends/openvino/strings.h"

namespace mesh::backend {
namespace {

TEST(SettingsTest, ParametersOverruleSettingsOverruleDefaults) {
  ModelConfig config;
  config.name = "m";
  config.instances = 3;
  config.parameters = {{"NUM_STREAMS", "9"}, {"execute_delay_ms", "5"}};
  const Properties settings = {{"NUM_STREAMS", "4"}, {"INFERENCE_PRECISION_HINT", "bf16"}, {"backend-directory", "/x"}};
  const Properties expected = {{"ENABLE_CPU_PINNING", "NO"},
                               {"INFERENCE_NUM_THREADS", "3"},
                               {"INFERENCE_PRECISION_HINT", "bf16"},
                               {"NUM_STREAMS", "9"}};
  EXPECT_EQ(CompileProperties(config, settings).value(), expected);
}

TEST(SettingsTest, ComputesOnCpuOnly) {
  ModelConfig config;
  config.name = "m";
  config.parameters = {{"TARGET_DEVICE", "CPU"}};
  EXPECT_EQ(CompileProperties(config, {}).value().count("TARGET_DEVICE"), 0U);
  config.parameters = {{"TARGET_DEVICE", "GPU"}};
  EXPECT_EQ(CompileProperties(config, {}).status().code(), Code::kUnimplemented);
}

TEST(SettingsTest, ReadsTritonsSettings) {
  const auto settings = ParseBackendSettings(R"({"cmdline": {"default-max-batch-size": "16", "n": 3}})");
  ASSERT_TRUE(settings.ok());
  EXPECT_EQ(DefaultMaxBatchSize(settings.value()), 16);
  EXPECT_EQ(settings.value().at("n"), "3");
  EXPECT_EQ(DefaultMaxBatchSize({}), 4);
  EXPECT_TRUE(ParseBackendSettings("{}").value().empty());
  EXPECT_EQ(ParseBackendSettings("{").status().code(), Code::kInvalidArgument);
}

class ModelFileTest : public testing::Test {
 protected:
  ModelFileTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "model_file_XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    config_.name = "m";
  }
  ~ModelFileTest() override { std::filesystem::remove_all(folder_); }

  void Touch(const std::string& name) { std::ofstream(folder_ / name) << "x"; }

  std::filesystem::path folder_;
  ModelConfig config_;
};

TEST_F(ModelFileTest, PrefersTheNamedFile) {
  Touch("model.onnx");
  Touch("model.xml");
  Touch("net.onnx");
  EXPECT_EQ(FindModelFile(config_, folder_.string()).value(), folder_ / "model.onnx");
  config_.default_model_filename = "model.xml";
  EXPECT_EQ(FindModelFile(config_, folder_.string()).value(), folder_ / "model.xml");
  config_.default_model_filename = "net.onnx";
  EXPECT_EQ(FindModelFile(config_, folder_.string()).value(), folder_ / "net.onnx");
}

TEST_F(ModelFileTest, TritonsGuessIsNoOrder) {
  Touch("model.onnx");
  config_.default_model_filename = "model.xml";  // Triton writes this for every model of a backend named openvino
  EXPECT_EQ(FindModelFile(config_, folder_.string()).value(), folder_ / "model.onnx");
}

TEST_F(ModelFileTest, SaysWhatIsThereInstead) {
  EXPECT_EQ(FindModelFile(config_, folder_.string()).status().message(),
            "model 'm': there is no model.onnx or model.xml in " + folder_.string() + " (which holds nothing)");
  Touch("b.onnx");
  Touch("a.onnx");
  config_.default_model_filename = "c.onnx";
  EXPECT_EQ(FindModelFile(config_, folder_.string()).status().message(),
            "model 'm': there is no 'c.onnx' in " + folder_.string() + " (which holds a.onnx, b.onnx)");
}

TEST(WithoutTraceTest, KeepsWhatIsForPeople) {
  EXPECT_EQ(WithoutTrace("Exception from src/inference/src/cpp/core.cpp:90:\nCheck 'false' failed at src/x.cpp:3:\n"
                         "  the file is empty  \n\n"),
            "the file is empty");
  EXPECT_EQ(WithoutTrace("Exception from src/core.cpp:90:"), "Exception from src/core.cpp:90:") << "never nothing";
  EXPECT_EQ(WithoutTrace("one\ntwo"), "one two");
}

TEST(StringsTest, GoThereAndBack) {
  const std::vector<std::string> texts = {"", std::string("\0a", 2), std::string(300, 'x')};
  std::string bytes(SerializedSize(texts.data(), texts.size()), '\0');
  SerializeStrings(texts.data(), texts.size(), bytes.data());
  std::vector<std::string> parsed(3);
  ASSERT_TRUE(ParseStrings(bytes.data(), bytes.size(), 3, parsed.data()).ok());
  EXPECT_EQ(parsed, texts);
}

TEST(StringsTest, RefuseEveryTruncationAndExcess) {
  const std::vector<std::string> texts = {"ab", "cde"};
  std::string bytes(SerializedSize(texts.data(), 2), '\0');
  SerializeStrings(texts.data(), 2, bytes.data());
  std::vector<std::string> parsed(3);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(ParseStrings(bytes.data(), size, 2, parsed.data()).code(), Code::kInvalidArgument) << size;
  }
  EXPECT_EQ(ParseStrings(bytes.data(), bytes.size(), 1, parsed.data()).code(), Code::kInvalidArgument);
  EXPECT_EQ(ParseStrings(bytes.data(), bytes.size(), 3, parsed.data()).code(), Code::kInvalidArgument);
  const std::string huge("\xff\xff\xff\xff", 4);
  EXPECT_EQ(ParseStrings(huge.data(), huge.size(), 1, parsed.data()).code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace mesh::backend
