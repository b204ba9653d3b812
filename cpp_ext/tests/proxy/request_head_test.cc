#include "proxy/request_head.h"

#include <gtest/gtest.h>

#include <protozero/pbf_writer.hpp>
#include <string>

namespace mesh::proxy {
namespace {

using protozero::pbf_writer;

void AddParameter(pbf_writer* request, const std::string& key, const std::string& value) {
  pbf_writer entry(*request, 4);
  entry.add_string(1, key);
  entry.add_message(2, value);
}

template <typename Write>
std::string Value(Write write) {
  std::string bytes;
  pbf_writer value(bytes);
  write(value);
  return bytes;
}

TEST(RequestHeadTest, ReadsWhatRoutingNeeds) {
  std::string bytes;
  pbf_writer request(bytes);
  request.add_string(1, "digits");
  request.add_string(2, "3");
  request.add_string(3, "id");
  AddParameter(&request, "other", Value([](auto& value) { value.add_string(3, "x"); }));
  AddParameter(&request, "sequence_id", Value([](auto& value) { value.add_int64(2, 42); }));
  AddParameter(&request, "sequence_start", Value([](auto& value) { value.add_bool(1, true); }));
  request.add_message(5, std::string("\x0a\x01x", 3));
  request.add_bytes(7, std::string(1000, 'r'));
  RequestHead head;
  ASSERT_TRUE(ReadInferHead(bytes, &head).ok());
  EXPECT_EQ(head.model, "digits");
  EXPECT_EQ(head.version, "3");
  EXPECT_EQ(head.sequence, "42");
  EXPECT_TRUE(head.sequence_start);
  EXPECT_FALSE(head.sequence_end);
  EXPECT_FALSE(head.pinned()) << "the first one may go anywhere";
  EXPECT_FALSE(head.retry_safe) << "a state would see it twice";
}

TEST(RequestHeadTest, SequenceIdsAreNumbersOrTexts) {
  const std::pair<std::string, std::string> cases[] = {
      {Value([](auto& value) { value.add_string(3, "user-1"); }), "user-1"},
      {Value([](auto& value) { value.add_uint64(5, 18446744073709551615U); }), "18446744073709551615"},
      {Value([](auto& value) { value.add_int64(2, 0); }), ""},
      {"", ""},
  };
  for (const auto& [value, wanted] : cases) {
    std::string bytes;
    pbf_writer request(bytes);
    AddParameter(&request, "sequence_id", value);
    RequestHead head;
    ASSERT_TRUE(ReadInferHead(bytes, &head).ok());
    EXPECT_EQ(head.sequence, wanted);
    EXPECT_EQ(head.pinned(), !wanted.empty());
    EXPECT_EQ(head.retry_safe, wanted.empty());
  }
}

TEST(RequestHeadTest, NeverReadsBeyondWhatIsThere) {
  std::string bytes;
  pbf_writer request(bytes);
  request.add_string(1, "digits");
  AddParameter(&request, "sequence_id", Value([](auto& value) { value.add_string(3, "user-1"); }));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::string cut(bytes.data(), size);  // of its own memory, so that AddressSanitizer sees a byte too much
    RequestHead head;
    const Status status = ReadInferHead(cut, &head);
    if (!status.ok()) {
      EXPECT_EQ(status.code(), Code::kInternal) << size;
    }
  }
}

TEST(RequestHeadTest, FieldsOfAnotherTypeAreSkipped) {
  RequestHead head;
  ASSERT_TRUE(ReadInferHead(std::string("\x08\x01\x0a\x01m", 5), &head).ok());
  EXPECT_EQ(head.model, "m");
  ASSERT_TRUE(ReadModelHead(std::string("\x08\x01", 2), &head).ok());
}

TEST(RequestHeadTest, NamesHaveALimit) {
  std::string bytes;
  pbf_writer request(bytes);
  request.add_string(1, std::string(1025, 'm'));
  RequestHead head;
  const Status status = ReadInferHead(bytes, &head);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("model_name"), std::string::npos);
}

TEST(RequestHeadTest, MetadataChoosesToo) {
  RequestHead head;
  ReadMetadataHead({{"mesh-deployment", "b"}, {"mesh-retry", "never"}, {"x-user", "7"}, {"x-user", "8"}}, "x-user",
                   &head);
  EXPECT_EQ(head.deployment, "b");
  EXPECT_FALSE(head.retry_safe);
  EXPECT_EQ(head.hash, "7") << "the first value";
}

}  // namespace
}  // namespace mesh::proxy
