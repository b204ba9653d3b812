#include "ingress/response_writer.h"

#include <gtest/gtest.h>

#include <memory>
#include <protozero/pbf_reader.hpp>
#include <string>
#include <vector>

namespace mesh::ingress {
namespace {

struct Read {
  std::string model, version, id;
  std::vector<std::string> names, types;
  std::vector<std::vector<std::int64_t>> shapes;
  std::vector<std::string> raw;
};

Read ReadBack(const std::string& bytes) {
  Read read;
  protozero::pbf_reader reader(bytes);
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: read.model = reader.get_string(); break;
      case 2: read.version = reader.get_string(); break;
      case 3: read.id = reader.get_string(); break;
      case 5: {
        protozero::pbf_reader output = reader.get_message();
        read.shapes.emplace_back();
        while (output.next()) {
          if (output.tag() == 1) read.names.push_back(output.get_string());
          if (output.tag() == 2) read.types.push_back(output.get_string());
          if (output.tag() == 3) {
            const auto packed = output.get_packed_int64();
            read.shapes.back().assign(packed.begin(), packed.end());
          }
        }
        break;
      }
      case 6: read.raw.push_back(reader.get_string()); break;
      default: reader.skip();
    }
  }
  return read;
}

class ResponseWriterTest : public testing::Test {
 protected:
  Scratch NewScratch(std::size_t size) {
    memory_ = std::make_shared<std::vector<char>>(size);
    return {memory_, memory_->data(), size};
  }

  void Add(const std::string& name, std::size_t size, const std::vector<std::int64_t>& shape) {
    shapes_.push_back(std::make_unique<std::vector<std::int64_t>>(shape));
    names_.push_back(std::make_unique<std::string>(name));
    const rpc::Slice bytes = rpc::Slice::Own(std::string(size, name[0]));
    slices_.push_back(bytes);
    parts_.outputs.push_back({*names_.back(), "UINT8", shapes_.back()->data(), shape.size(), bytes.view(), bytes});
  }

  std::shared_ptr<std::vector<char>> memory_;
  std::vector<std::unique_ptr<std::vector<std::int64_t>>> shapes_;
  std::vector<std::unique_ptr<std::string>> names_;
  std::vector<rpc::Slice> slices_;
  ResponseParts parts_{"model", 3, "id-1", {}, {}};
};

TEST_F(ResponseWriterTest, SmallAnswersAreOneSliceOfTheScratch) {
  Add("A", 64, {64});
  Add("B", 0, {0, 5});
  Add("C", 1, {});
  Result<rpc::Message> message = WriteResponse(parts_, NewScratch(512));
  ASSERT_TRUE(message.ok());
  ASSERT_EQ(message.value().slices().size(), 1U);
  EXPECT_EQ(message.value().slices()[0].data(), memory_->data());
  const Read read = ReadBack(message.value().Flatten());
  EXPECT_EQ(read.model, "model");
  EXPECT_EQ(read.version, "3");
  EXPECT_EQ(read.id, "id-1");
  EXPECT_EQ(read.names, (std::vector<std::string>{"A", "B", "C"}));
  EXPECT_EQ(read.shapes, (std::vector<std::vector<std::int64_t>>{{64}, {0, 5}, {}}));
  EXPECT_EQ(read.raw, (std::vector<std::string>{std::string(64, 'A'), "", "C"}));
}

TEST_F(ResponseWriterTest, LargeOutputsAreNotCopied) {
  Add("A", kCopyBytes + 1, {2049});
  Add("B", 10, {10});
  Add("C", 1000000, {1000, 1000});
  Result<rpc::Message> message = WriteResponse(parts_, NewScratch(16));
  ASSERT_TRUE(message.ok());
  int shared = 0;
  for (const rpc::Slice& slice : message.value().slices()) {
    for (const rpc::Slice& output : slices_) shared += slice.data() == output.data() ? 1 : 0;
  }
  EXPECT_EQ(shared, 2);
  const Read read = ReadBack(message.value().Flatten());
  ASSERT_EQ(read.raw.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(read.raw[i], slices_[i].view());
}

TEST_F(ResponseWriterTest, EverySizeOfScratchGivesTheSameBytes) {
  Add("A", 100, {100});
  Add("B", 3000, {3000});
  const std::string expected = WriteResponse(parts_, {}).value().Flatten();
  for (std::size_t size = 0; size < 400; size += 13) {
    EXPECT_EQ(WriteResponse(parts_, NewScratch(size)).value().Flatten(), expected) << size;
  }
}

TEST_F(ResponseWriterTest, WhatNoMessageCanCarryIsRefused) {
  Add("A", 10, {10});
  const char byte = 0;
  const std::size_t huge = 1UL << 31;  // never read: only measured
  parts_.outputs[0].data = std::string_view(&byte, huge);
  EXPECT_EQ(WriteResponse(parts_, {}).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace mesh::ingress
