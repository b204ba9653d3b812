#include "ingress/shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

namespace mesh::ingress {
namespace {

// A segment of its own, filled with its offsets.
class Segment {
 public:
  explicit Segment(std::size_t size) : key_("/mesh_test_" + std::to_string(getpid()) + "_" + std::to_string(size)) {
    fd_ = shm_open(key_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    std::string bytes(size, '\0');
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i % 251);
    EXPECT_EQ(pwrite(fd_, bytes.data(), size, 0), static_cast<ssize_t>(size));
  }
  ~Segment() {
    close(fd_);
    shm_unlink(key_.c_str());
  }
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;
  [[nodiscard]] const std::string& key() const { return key_; }
  void Cut(std::size_t size) const { EXPECT_EQ(ftruncate(fd_, static_cast<off_t>(size)), 0); }

 private:
  std::string key_;
  int fd_ = -1;
};

TEST(SharedMemoryTest, FindsPartsAtAnyOffset) {
  const Segment segment(10000);
  SharedMemory memory;
  ASSERT_TRUE(memory.Register("r", segment.key(), 4103, 500).ok());
  const Result<rpc::Slice> part = memory.Find("r", 7, 100);
  ASSERT_TRUE(part.ok());
  EXPECT_EQ(part.value().size(), 100U);
  EXPECT_EQ(static_cast<unsigned char>(part.value().data()[0]), (4103 + 7) % 251);
  EXPECT_TRUE(memory.Find("r", 500, 0).ok());
}

TEST(SharedMemoryTest, RefusesWhatLiesOutside) {
  const Segment segment(4096);
  SharedMemory memory;
  ASSERT_TRUE(memory.Register("r", segment.key(), 0, 4096).ok());
  EXPECT_EQ(memory.Find("r", 4090, 7).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(memory.Find("r", ~0ULL, 1).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(memory.Find("r", 1, ~0ULL).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(memory.Find("s", 0, 1).status().code(), Code::kNotFound);
  EXPECT_EQ(memory.Register("b", segment.key(), 4000, 97).code(), Code::kInternal);
  EXPECT_EQ(memory.Register("b", segment.key(), ~0ULL, 2).code(), Code::kInternal);
  EXPECT_EQ(memory.Register("b", "/mesh_no_such_segment", 0, 1).code(), Code::kInternal);
  EXPECT_EQ(memory.Register("r", segment.key(), 0, 1).code(), Code::kAlreadyExists);
}

TEST(SharedMemoryTest, APartOutlivesItsRegistration) {
  const Segment segment(4096);
  SharedMemory memory;
  ASSERT_TRUE(memory.Register("r", segment.key(), 0, 4096).ok());
  const Result<rpc::Slice> part = memory.Find("r", 10, 10);
  memory.UnregisterAll();
  EXPECT_EQ(part.value().data()[0], 10);
  EXPECT_EQ(memory.Find("r", 10, 10).status().code(), Code::kNotFound);
}

TEST(SharedMemoryTest, ASegmentThatWasCutIsNotTouched) {
  const Segment segment(8192);
  SharedMemory memory;
  ASSERT_TRUE(memory.Register("r", segment.key(), 0, 8192).ok());
  segment.Cut(100);
  EXPECT_EQ(memory.Find("r", 0, 10).status().code(), Code::kFailedPrecondition);
}

TEST(SharedMemoryTest, PeersOfThisHost) {
  EXPECT_TRUE(IsLocalPeer("127.0.0.1:50000"));
  EXPECT_TRUE(IsLocalPeer("[::1]:50000"));
  EXPECT_FALSE(IsLocalPeer("192.0.2.1:50000"));  // TEST-NET-1
  EXPECT_FALSE(IsLocalPeer("[2001:db8::1]:1"));
  EXPECT_FALSE(IsLocalPeer("unknown"));
}

}  // namespace
}  // namespace mesh::ingress
