#include "backends/common/model_config.h"

#include <gtest/gtest.h>

#include "backends/common/datatypes.h"

namespace mesh::backend {
namespace {

TEST(DataTypesTest, NamesGoThereAndBack) {
  for (int number = TRITONSERVER_TYPE_BOOL; number <= TRITONSERVER_TYPE_BF16; ++number) {
    const auto type = static_cast<TRITONSERVER_DataType>(number);
    EXPECT_EQ(DataTypeFromName(DataTypeName(type)), type);
    EXPECT_EQ(DataTypeFromName(ConfigDataTypeName(type)), type);
  }
  EXPECT_EQ(ConfigDataTypeName(TRITONSERVER_TYPE_BYTES), "TYPE_STRING");
  EXPECT_EQ(DataTypeFromName("TYPE_FP8"), TRITONSERVER_TYPE_INVALID);
  EXPECT_EQ(DataTypeFromName("INVALID"), TRITONSERVER_TYPE_INVALID);
  EXPECT_STREQ(DataTypeName(static_cast<TRITONSERVER_DataType>(99)), "INVALID");
}

TEST(DataTypesTest, SizesOfOneElement) {
  EXPECT_EQ(DataTypeSize(TRITONSERVER_TYPE_BF16), 2U);
  EXPECT_EQ(DataTypeSize(TRITONSERVER_TYPE_FP64), 8U);
  EXPECT_EQ(DataTypeSize(TRITONSERVER_TYPE_BOOL), 1U);
  EXPECT_EQ(DataTypeSize(TRITONSERVER_TYPE_BYTES), 0U);
}

TEST(DataTypesTest, ShapesAsText) {
  EXPECT_EQ(ShapeText({-1, 64}), "[-1,64]");
  EXPECT_EQ(ShapeText({}), "[]");
}

TEST(ModelConfigTest, ReadsWhatBackendsNeed) {
  const auto config = ParseModelConfig(R"({
    "name": "digits", "max_batch_size": 64, "default_model_filename": "net.onnx", "dynamic_batching": {},
    "input": [{"name": "image", "data_type": "TYPE_FP32", "dims": [8, "-1"], "reshape": {"shape": [64]}}],
    "output": [{"name": "text", "data_type": "TYPE_STRING", "dims": [1], "reshape": {}}],
    "instance_group": [{"count": 2}, {}],
    "parameters": {"NUM_STREAMS": {"string_value": "2"}}})");
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_EQ(config.value().name, "digits");
  EXPECT_EQ(config.value().max_batch_size, 64);
  EXPECT_EQ(config.value().default_model_filename, "net.onnx");
  EXPECT_TRUE(config.value().has_scheduler);
  EXPECT_EQ(config.value().instances, 3);
  EXPECT_EQ(config.value().parameters.at("NUM_STREAMS"), "2");
  const TensorConfig& input = config.value().inputs.at(0);
  EXPECT_EQ(input.dims, (std::vector<std::int64_t>{8, -1}));
  EXPECT_EQ(input.ModelDims(), (std::vector<std::int64_t>{64}));
  const TensorConfig& output = config.value().outputs.at(0);
  EXPECT_EQ(output.datatype, TRITONSERVER_TYPE_BYTES);
  EXPECT_TRUE(output.ModelDims().empty()) << "a reshape to nothing is a scalar";
}

TEST(ModelConfigTest, SequencesBringTensorsOfTheirOwn) {
  const auto config = ParseModelConfig(R"({
    "input": [{"name": "IN", "data_type": "TYPE_INT32", "dims": [1]}],
    "output": [{"name": "OUT", "data_type": "TYPE_INT32", "dims": [1]},
               {"name": "SHOWN_OUT", "data_type": "TYPE_FP16", "dims": [2]}],
    "sequence_batching": {
      "control_input": [
        {"name": "START", "control": [{"kind": "CONTROL_SEQUENCE_START", "fp32_false_true": [0, 1],
                                       "int32_false_true": [], "data_type": "TYPE_INVALID"}]},
        {"name": "READY", "control": [{"bool_false_true": [false, true]}]},
        {"name": "WHO", "control": [{"kind": "CONTROL_SEQUENCE_CORRID", "data_type": "TYPE_STRING"}]}],
      "state": [{"input_name": "SUM_IN", "output_name": "SUM_OUT", "data_type": "TYPE_INT32", "dims": ["1"]},
                {"input_name": "SHOWN_IN", "output_name": "SHOWN_OUT", "data_type": "TYPE_FP16", "dims": [2]}]}})");
  ASSERT_TRUE(config.ok()) << config.status().ToString();
  EXPECT_TRUE(config.value().has_scheduler);
  std::string inputs;
  for (const TensorConfig& tensor : AllInputs(config.value())) {
    inputs += tensor.name + ":" + DataTypeName(tensor.datatype) + ShapeText(tensor.dims) + " ";
  }
  EXPECT_EQ(inputs, "IN:INT32[1] START:FP32[1] READY:BOOL[1] WHO:BYTES[1] SUM_IN:INT32[1] SHOWN_IN:FP16[2] ");
  std::string outputs;
  for (const TensorConfig& tensor : AllOutputs(config.value())) {
    outputs += tensor.name + ":" + DataTypeName(tensor.datatype) + ShapeText(tensor.dims) + " ";
  }
  EXPECT_EQ(outputs, "OUT:INT32[1] SHOWN_OUT:FP16[2] SUM_OUT:INT32[1] ") << "each once";
}

TEST(ModelConfigTest, RefusesWhatIsNoConfig) {
  for (const char* text : {"", "{", "[1]", R"({"input": [3]})", R"({"max_batch_size": "x"})", R"({"input": 5})"}) {
    EXPECT_EQ(ParseModelConfig(text).status().code(), Code::kInvalidArgument) << text;
  }
}

TEST(ModelConfigTest, IntegerParametersAreCheckedWhole) {
  ModelConfig config;
  config.name = "slow";
  config.parameters = {{"good", "25"}, {"word", "fast"}, {"tail", "3ms"}, {"big", "101"}, {"none", ""}};
  EXPECT_EQ(IntegerParameter(config, "good", 1, 0, 100).value(), 25);
  EXPECT_EQ(IntegerParameter(config, "absent", 7, 0, 100).value(), 7);
  for (const char* key : {"word", "tail", "big", "none"}) {
    EXPECT_EQ(IntegerParameter(config, key, 0, 0, 100).status().code(), Code::kInvalidArgument) << key;
  }
  EXPECT_EQ(IntegerParameter(config, "tail", 0, 0, 100).status().message(),
            "model 'slow': parameter 'tail' is '3ms', it must be a whole number from 0 to 100");
}

}  // namespace
}  // namespace mesh::backend
