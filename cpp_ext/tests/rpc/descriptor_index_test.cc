#include "rpc/descriptor_index.h"

#include <gtest/gtest.h>

#include <protozero/pbf_writer.hpp>

#include "rpc/reflection.h"

namespace mesh::rpc {
namespace {

// A file "ext.proto" with a message p.Base, and an extension of it with the number 100.
std::string ExtensionSet() {
  std::string set;
  protozero::pbf_writer writer(set);
  protozero::pbf_writer file(writer, 1);
  file.add_string(1, "ext.proto");
  file.add_string(2, "p");
  {
    protozero::pbf_writer message(file, 4);
    message.add_string(1, "Base");
  }
  protozero::pbf_writer extension(file, 7);
  extension.add_string(1, "more");
  extension.add_string(2, ".p.Base");
  extension.add_int32(3, 100);
  return set;
}

TEST(DescriptorIndex, FindsEveryKindOfName) {
  DescriptorIndex index;
  ASSERT_TRUE(index.Add(OpenInferenceDescriptors()).ok());
  for (const char* name :
       {"inference.GRPCInferenceService", "inference.GRPCInferenceService.ModelInfer", "inference.ModelInferRequest",
        "inference.ModelInferRequest.InferInputTensor", "inference.ModelInferRequest.InferInputTensor.shape",
        "inference.InferParameter.parameter_choice", "inference.DataType", "inference.TYPE_FP32",
        "inference.ModelInstanceGroup.KIND_CPU", "inference.ModelInferRequest.ParametersEntry"}) {
    EXPECT_FALSE(index.FileOfSymbol(name).empty()) << name;
  }
  EXPECT_EQ(index.FileByName("open_inference.proto").size(), 2U);
  EXPECT_EQ(index.FileByName("open_inference_model_config.proto").size(), 1U);
  EXPECT_TRUE(index.FileOfSymbol("inference.Nothing").empty());
  EXPECT_TRUE(index.FileOfSymbol("").empty());
}

TEST(DescriptorIndex, FindsExtensions) {
  const std::string set = ExtensionSet();
  DescriptorIndex index;
  ASSERT_TRUE(index.Add(set).ok());
  ASSERT_TRUE(index.Add(set).ok());  // again: changes nothing
  EXPECT_EQ(index.FileOfExtension("p.Base", 100).size(), 1U);
  EXPECT_TRUE(index.FileOfExtension("p.Base", 101).empty());
  EXPECT_EQ(index.ExtensionsOf("p.Base"), std::vector<std::int32_t>{100});
  EXPECT_TRUE(index.KnowsSymbol("p.more"));
}

TEST(DescriptorIndex, RefusesRubbish) {
  DescriptorIndex index;
  EXPECT_EQ(index.Add("\x0a\xff\xff").code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace mesh::rpc
