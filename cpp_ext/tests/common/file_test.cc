#include "common/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

namespace mesh {
namespace {

TEST(FileTest, ReadsWholeFilesWithinTheLimit) {
  const std::string path = ::testing::TempDir() + "file_test_" + std::to_string(getpid());
  const std::string content = std::string("a\0b", 3) + std::string(200000, 'x');
  std::ofstream(path, std::ios::binary) << content;
  const auto read = ReadFile(path);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read.value(), content);
  EXPECT_EQ(ReadFile(path, 1000).status().code(), Code::kResourceExhausted);
  unlink(path.c_str());
  EXPECT_EQ(ReadFile(path).status().code(), Code::kNotFound);
}

TEST(FileTest, FoldersAndPipesAreNoFiles) {
  EXPECT_EQ(ReadFile(::testing::TempDir()).status().code(), Code::kFailedPrecondition);
  const std::string pipe = ::testing::TempDir() + "file_test_pipe_" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(ReadFile(pipe).status().code(), Code::kFailedPrecondition);
  unlink(pipe.c_str());
}

}  // namespace
}  // namespace mesh
