#include "backends/openvino/signature.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mesh::backend {
namespace {

using Json = nlohmann::json;
using Dims = std::vector<std::int64_t>;

TensorSignature Tensor(const std::string& name, Dims dims, TRITONSERVER_DataType type = TRITONSERVER_TYPE_FP32) {
  TensorSignature tensor;
  tensor.names = {name};
  tensor.datatype = type;
  tensor.file_type = type == TRITONSERVER_TYPE_INVALID ? "u4" : "f32";
  tensor.dims = std::move(dims);
  return tensor;
}

TensorConfig Config(const std::string& name, Dims dims, TRITONSERVER_DataType type = TRITONSERVER_TYPE_FP32) {
  TensorConfig tensor;
  tensor.name = name;
  tensor.datatype = type;
  tensor.dims = std::move(dims);
  return tensor;
}

ModelConfig Digits(std::int64_t max_batch_size, Dims dims) {
  ModelConfig config;
  config.name = "digits";
  config.max_batch_size = max_batch_size;
  config.inputs = {Config("INPUT0", std::move(dims))};
  config.outputs = {Config("OUTPUT0", {10})};
  return config;
}

TEST(ValidateTest, CountsDims) {
  const ModelSignature model = {{Tensor("INPUT0", {1, 8, 8})}, {Tensor("OUTPUT0", {10})}};
  EXPECT_EQ(Validate(Digits(0, {1, 1, 8, 8}), model).message(),
            "model 'digits': input 'INPUT0' has 3 dims, config says 4");
  EXPECT_TRUE(Validate(Digits(0, {1, 8, 8}), model).ok());
}

TEST(ValidateTest, InputsMustNotBeWiderThanTheModelOutputsMay) {
  const ModelSignature model = {{Tensor("INPUT0", {-1, 64})}, {Tensor("OUTPUT0", {-1, 10})}};
  ModelConfig config = Digits(8, {-1});
  EXPECT_EQ(Validate(config, model).message(),
            "model 'digits': input 'INPUT0' has shape [-1,64], config says [-1,-1] (the batch dimension included)");
  config.inputs[0].dims = {64};
  config.outputs[0].dims = {-1};
  EXPECT_TRUE(Validate(config, model).ok());
}

TEST(ValidateTest, BatchDimension) {
  const ModelSignature fixed = {{Tensor("INPUT0", {1, 64})}, {Tensor("OUTPUT0", {1, 10})}};
  EXPECT_TRUE(Validate(Digits(1, {64}), fixed).ok()) << "a fixed 1 is a batch of one";
  EXPECT_NE(Validate(Digits(2, {64}), fixed).message().find("the first dimension of input 'INPUT0' is fixed at 1"),
            std::string::npos);
  const ModelSignature scalar = {{Tensor("INPUT0", {-1, 64})}, {Tensor("OUTPUT0", {})}};
  ModelConfig config = Digits(2, {64});
  config.outputs[0].dims = {};
  EXPECT_NE(Validate(config, scalar).message().find("output 'OUTPUT0' is a scalar"), std::string::npos);
}

TEST(ValidateTest, OneTensorMayHaveSeveralNames) {
  ModelSignature model = {{Tensor("a", {-1, 64})}, {Tensor("OUTPUT0", {-1, 10})}};
  model.inputs[0].names.emplace_back("INPUT0");
  EXPECT_TRUE(Validate(Digits(8, {64}), model).ok());
}

TEST(ValidateTest, OneOutputMayBeServedUnderTwoNamesButNotOneInput) {
  ModelSignature model = {{Tensor("INPUT0", {-1, 64})}, {Tensor("OUTPUT0", {-1, 10})}};
  model.outputs[0].names.emplace_back("AGAIN");
  ModelConfig config = Digits(8, {64});
  config.outputs.push_back(Config("AGAIN", {10}));
  EXPECT_TRUE(Validate(config, model).ok()) << Validate(config, model).ToString();
  model.inputs[0].names.emplace_back("SAME");
  model.inputs.push_back(Tensor("OTHER", {-1, 64}));
  config.inputs.push_back(Config("SAME", {64}));
  EXPECT_EQ(
      Validate(config, model).message(),
      "model 'digits': config does not name the model's input 'OTHER', and names another one twice (a tensor of a "
      "model may have several names)");
}

TEST(ValidateTest, WhatThisBackendDoesNotDo) {
  const ModelSignature model = {{Tensor("INPUT0", {-1, 64})}, {Tensor("OUTPUT0", {-1, 10})}};
  ModelConfig config = Digits(8, {64});
  config.inputs[0].ragged = true;
  EXPECT_NE(Validate(config, model).message().find("ragged"), std::string::npos);
  config = Digits(8, {64});
  config.inputs[0].optional = true;
  EXPECT_NE(Validate(config, model).message().find("optional"), std::string::npos);
}

TEST(ValidateTest, ConfigMayLeaveOutOutputsButNotInputs) {
  const ModelSignature model = {{Tensor("INPUT0", {-1, 64})}, {Tensor("OUTPUT0", {-1, 10}), Tensor("MORE", {-1, 3})}};
  ModelConfig config = Digits(8, {64});
  EXPECT_TRUE(Validate(config, model).ok());
  config.inputs.clear();
  EXPECT_EQ(Validate(config, model).message(), "model 'digits': the model has 1 inputs ('INPUT0'), config says 0");
}

TEST(ValidateTest, UnknownRankTakesAnyConfig) {
  ModelSignature model = {{Tensor("INPUT0", {})}, {Tensor("OUTPUT0", {-1, 10})}};
  model.inputs[0].rank_known = false;
  EXPECT_TRUE(Validate(Digits(8, {64}), model).ok());
}

TEST(CompleteTest, FillsEverythingOfAModelThatBatches) {
  const ModelSignature model = {{Tensor("x", {-1, 64})}, {Tensor("y", {-1, 10}), Tensor("most", {-1})}};
  const auto text =
      Complete(R"({"name": "m", "max_batch_size": 0, "platform": "", "input": [], "output": []})", model, 4);
  ASSERT_TRUE(text.ok());
  const Json json = Json::parse(text.value());
  EXPECT_EQ(json["max_batch_size"], 4);
  EXPECT_TRUE(json.contains("dynamic_batching"));
  EXPECT_EQ(json["input"], Json::parse(R"([{"name": "x", "data_type": "TYPE_FP32", "dims": [64]}])"));
  EXPECT_EQ(json["output"][0]["dims"], Json::parse("[10]"));
  EXPECT_EQ(json["output"][1], Json::parse(R"({"name": "most", "data_type": "TYPE_FP32", "dims": [1],
                                               "reshape": {"shape": []}})"));
}

TEST(CompleteTest, LeavesACompleteConfigAlone) {
  const ModelSignature model = {{Tensor("x", {-1, 64})}, {Tensor("y", {-1, 10})}};
  const auto text = Complete(R"({"name": "m", "max_batch_size": 0,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 64]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, 10]}]})",
                             model, 4);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(text.value(), "");
}

TEST(CompleteTest, BatchesOnlyWhatCanBatch) {
  const ModelSignature fixed = {{Tensor("x", {3, 64})}, {Tensor("y", {3, 10})}};
  const Json json = Json::parse(Complete(R"({"name": "m"})", fixed, 4).value());
  EXPECT_FALSE(json.contains("max_batch_size"));
  EXPECT_EQ(json["input"][0]["dims"], Json::parse("[3,64]"));
  const ModelSignature half = {{Tensor("x", {-1, 64}), Tensor("w", {64})}, {Tensor("y", {-1})}};
  EXPECT_FALSE(CanBatch(half));
}

TEST(CompleteTest, KeepsTheSchedulerThatIsSet) {
  const ModelSignature model = {{Tensor("x", {-1, 64})}, {Tensor("y", {-1, 10})}};
  const Json json =
      Json::parse(Complete(R"({"name": "m", "max_batch_size": 2, "sequence_batching": {}})", model, 4).value());
  EXPECT_EQ(json["max_batch_size"], 2);
  EXPECT_FALSE(json.contains("dynamic_batching"));
}

TEST(CompleteTest, SaysWhatCannotBeServed) {
  const ModelSignature model = {{Tensor("x", {-1, 64}, TRITONSERVER_TYPE_INVALID)}, {Tensor("y", {-1, 10})}};
  EXPECT_EQ(Complete(R"({"name": "m"})", model, 4).status().message(),
            "model 'm': input 'x' has datatype u4, which cannot be served");
}

ModelConfig Sums() {
  ModelConfig config = Digits(8, {64});
  config.sequence_inputs = {Config("START", {1}, TRITONSERVER_TYPE_INT32), Config("SUM_IN", {10})};
  config.state_outputs = {Config("SUM_OUT", {10})};
  return config;
}

TEST(ValidateTest, TheModelHasTheTensorsOfItsSequences) {
  ModelSignature model{
      {Tensor("INPUT0", {-1, 64}), Tensor("START", {-1, 1}, TRITONSERVER_TYPE_INT32), Tensor("SUM_IN", {-1, 10})},
      {Tensor("OUTPUT0", {-1, 10}), Tensor("SUM_OUT", {-1, 10})}};
  EXPECT_TRUE(Validate(Sums(), model).ok()) << Validate(Sums(), model).ToString();
  model.outputs.pop_back();
  EXPECT_NE(Validate(Sums(), model).message().find("config names output 'SUM_OUT'"), std::string::npos);
  model.inputs.pop_back();
  EXPECT_NE(Validate(Sums(), model).message().find("config names input 'SUM_IN'"), std::string::npos);
}

TEST(CompleteTest, TensorsOfSequencesAreNotGivenToClients) {
  const ModelSignature model{{Tensor("INPUT0", {-1, 64}), Tensor("SUM_IN", {-1, 10})},
                             {Tensor("OUTPUT0", {-1, 10}), Tensor("SUM_OUT", {-1, 10})}};
  const std::string config = R"({"name": "sums", "max_batch_size": 4, "sequence_batching": {
      "state": [{"input_name": "SUM_IN", "output_name": "SUM_OUT", "data_type": "TYPE_FP32", "dims": [10]}]}})";
  const Result<std::string> completed = Complete(config, model, 4);
  ASSERT_TRUE(completed.ok()) << completed.status().ToString();
  const Json json = Json::parse(completed.value());
  ASSERT_EQ(json.at("input").size(), 1U);
  EXPECT_EQ(json.at("input").at(0).at("name"), "INPUT0");
  ASSERT_EQ(json.at("output").size(), 1U);
  EXPECT_EQ(json.at("output").at(0).at("name"), "OUTPUT0");
}

TEST(CompleteTest, AStateThatCannotBatchKeepsTheModelFromIt) {
  const ModelSignature model{{Tensor("INPUT0", {-1, 10}), Tensor("SUM_IN", {1, 10})},
                             {Tensor("OUTPUT0", {-1, 10}), Tensor("SUM_OUT", {1, 10})}};
  const std::string config = R"({"name": "sums", "sequence_batching": {
      "state": [{"input_name": "SUM_IN", "output_name": "SUM_OUT", "data_type": "TYPE_FP32", "dims": [1, 10]}]}})";
  const Result<std::string> completed = Complete(config, model, 4);
  ASSERT_TRUE(completed.ok()) << completed.status().ToString();
  const Json json = Json::parse(completed.value());
  EXPECT_FALSE(json.contains("max_batch_size"));
  EXPECT_EQ(json.at("input").at(0).at("dims"), Json::parse("[-1, 10]"));
  const Result<ModelConfig> parsed = ParseModelConfig(completed.value());
  ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
  EXPECT_TRUE(Validate(parsed.value(), model).ok()) << Validate(parsed.value(), model).ToString();
}

TEST(CompleteTest, AnOutputThatIsAStateTooIsShownUnderItsOtherName) {
  TensorSignature total = Tensor("OUTPUT0", {-1, 10});
  total.names.emplace_back("SUM_OUT");
  const ModelSignature model{{Tensor("INPUT0", {-1, 10}), Tensor("SUM_IN", {-1, 10})}, {total, total}};
  const std::string config = R"({"name": "sums", "max_batch_size": 4, "sequence_batching": {
      "state": [{"input_name": "SUM_IN", "output_name": "SUM_OUT", "data_type": "TYPE_FP32", "dims": [10]}]}})";
  const Result<std::string> completed = Complete(config, model, 4);
  ASSERT_TRUE(completed.ok()) << completed.status().ToString();
  const Json json = Json::parse(completed.value());
  ASSERT_EQ(json.at("output").size(), 1U) << "two results show one tensor";
  EXPECT_EQ(json.at("output").at(0).at("name"), "OUTPUT0");
}

}  // namespace
}  // namespace mesh::backend
