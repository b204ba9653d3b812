#include "common/memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

namespace mesh {
namespace {

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "cgroupXXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text << '\n';
  }
  std::string root_;
};

TEST_F(CgroupTest, TheLowestOfAllGroupsAboveCounts) {
  Write("/a/b/memory.max", "max");
  Write("/a/memory.max", "3000");
  Write("/memory.max", "5000");
  EXPECT_EQ(CgroupMemoryLimit("0::/a/b\n", root_), 3000U);
  Write("/a/b/memory.max", "2000");
  EXPECT_EQ(CgroupMemoryLimit("0::/a/b\n", root_), 2000U);
}

TEST_F(CgroupTest, InAContainerThePathIsNotThere) {
  Write("/memory.max", "5000");
  EXPECT_EQ(CgroupMemoryLimit("0::/docker/0123\n", root_), 5000U);
}

TEST_F(CgroupTest, VersionOneNamesItsControllers) {
  Write("/memory/x/memory.limit_in_bytes", "700");
  EXPECT_EQ(CgroupMemoryLimit("9:name=systemd:/\n4:cpu,memory:/x\n0::/\n", root_), 700U);
  EXPECT_EQ(CgroupMemoryLimit("4:cpu:/x\n0::/\n", root_), kNoLimit);
  EXPECT_EQ(CgroupMemoryLimit("", root_), kNoLimit);
  EXPECT_EQ(CgroupMemoryLimit("rubbish\n4:memory\n", root_), kNoLimit);
}

TEST(MemoryLimit, IsAtMostTheMachines) {
  const auto machine =
      static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  EXPECT_GT(MemoryLimitBytes(), 1UL << 20);
  EXPECT_LE(MemoryLimitBytes(), machine);
}

}  // namespace
}  // namespace mesh
