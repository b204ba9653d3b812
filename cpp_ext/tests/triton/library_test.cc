#include "triton/library.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "triton/elf.h"

namespace mesh::triton {
namespace {

namespace fs = std::filesystem;

class LibraryTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/mesh-library-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return (folder_ / name).string();
  }

  fs::path folder_;
};

TEST_F(LibraryTest, FindsTheFileInAFolder) {
  Result<std::string> found = FindLibrary(MESH_TEST_TRITON_FOLDER);
  ASSERT_TRUE(found.ok()) << found.status().ToString();
  EXPECT_NE(found.value().find("libtritonserver"), std::string::npos);
  EXPECT_EQ(FindLibrary(found.value()).value(), found.value());
}

TEST_F(LibraryTest, SaysWhatItLookedAt) {
  for (const std::string& hint : {std::string("/nowhere/at/all"), folder_.string()}) {
    const Status status = FindLibrary(hint).status();
    EXPECT_EQ(status.code(), Code::kNotFound);
    EXPECT_NE(status.message().find(hint), std::string::npos) << status.message();
  }
}

TEST_F(LibraryTest, WhatIsNoLibraryIsRefused) {
  const std::string text = Write("libtritonserver.so", "not an ELF file");
  Status status = LoadLibrary(text);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
}

TEST_F(LibraryTest, AnotherLibraryIsNamedWithWhatItLacks) {
  fs::path other;
  for (const auto& entry : fs::directory_iterator(MESH_TEST_TRITON_FOLDER)) {
    if (entry.path().filename().string().rfind("libbz2", 0) == 0) other = entry.path();
  }
  ASSERT_FALSE(other.empty());
  const Status status = LoadLibrary(other.string());
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  // In a process that has loaded Triton already the answer is that; both name the file.
  EXPECT_NE(status.message().find(fs::canonical(other).string()), std::string::npos) << status.message();
}

TEST_F(LibraryTest, LoadsWithNeighboursAndOnlyOnce) {
  ASSERT_EQ(std::getenv("LD_LIBRARY_PATH"), nullptr) << "the test proves that it is not needed";
  Status status = LoadLibrary(MESH_TEST_TRITON_FOLDER);
  ASSERT_TRUE(status.ok()) << status.ToString();
  EXPECT_TRUE(LoadLibrary(MESH_TEST_TRITON_FOLDER).ok());
  EXPECT_GE(GetApi().minor_version, static_cast<std::uint32_t>(TRITONSERVER_API_VERSION_MINOR));
  const std::string copy = Write("libtritonserver-copy.so", "");
  status = LoadLibrary(copy);
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_NE(status.message().find("use another process"), std::string::npos) << status.message();
}

TEST_F(LibraryTest, NeededLibrariesOfARealFile) {
  Result<std::string> library = FindLibrary(MESH_TEST_TRITON_FOLDER);
  ASSERT_TRUE(library.ok());
  Result<std::vector<std::string>> needed = NeededLibraries(library.value());
  ASSERT_TRUE(needed.ok()) << needed.status().ToString();
  bool has_libc = false;
  for (const std::string& name : needed.value()) has_libc = has_libc || name == "libc.so.6";
  EXPECT_TRUE(has_libc);
}

// Every prefix of a real file's first part, and single bits turned: an answer, never a crash.
TEST_F(LibraryTest, DamagedFilesAreAnswered) {
  std::ifstream input("/lib64/ld-linux-x86-64.so.2", std::ios::binary);  // there also where no backend is built
  const std::string whole((std::istreambuf_iterator<char>(input)), std::istreambuf_iterator<char>());
  ASSERT_GT(whole.size(), 4096U);
  for (const std::size_t size : {0, 3, 15, 63, 64, 100, 300, 1000, 4096}) {
    static_cast<void>(NeededLibraries(Write("cut.so", whole.substr(0, size))));
  }
  for (std::size_t at = 16; at < 700; at += 7) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x5a);
    static_cast<void>(NeededLibraries(Write("damaged.so", damaged)));
  }
  EXPECT_EQ(NeededLibraries(Write("empty.so", "")).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(NeededLibraries("/nowhere/libx.so").status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace mesh::triton
