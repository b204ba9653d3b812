#include "common/block_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

namespace mesh {
namespace {

using Blocks = std::vector<std::pair<unsigned char*, std::size_t>>;

// Blocks of all kinds of sizes, each filled with its own number.
Blocks AllocateMany(std::size_t count, unsigned seed) {
  Blocks blocks;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t size = 1 + (i * 97 + seed) % (kMaxPooledBytes + 200);
    auto* block = static_cast<unsigned char*>(AllocateBlock(size));
    std::memset(block, static_cast<int>((i + seed) % 251), size);
    blocks.emplace_back(block, size);
  }
  return blocks;
}

void CheckAndFree(const Blocks& blocks, unsigned seed) {
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto [block, size] = blocks[i];
    const auto expected = static_cast<unsigned char>((i + seed) % 251);
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(block) % kPooledAlignment, 0U);
    ASSERT_EQ(block[0], expected);
    ASSERT_EQ(block[size - 1], expected);
    FreeBlock(block, size);
  }
}

TEST(BlockPoolTest, BlocksDoNotOverlap) {
  for (unsigned round = 0; round < 3; ++round) {
    const Blocks blocks = AllocateMany(5000, round);
    std::set<unsigned char*> different;
    for (const auto& [block, size] : blocks) different.insert(block);
    EXPECT_EQ(different.size(), blocks.size());
    CheckAndFree(blocks, round);
  }
}

TEST(BlockPoolTest, OtherThreadsFreeWhatOneAllocates) {
  std::mutex mutex;
  std::vector<Blocks> handed;
  bool done = false;
  std::thread maker([&] {
    for (unsigned round = 0; round < 200; ++round) {
      Blocks blocks = AllocateMany(100, 7);
      const std::lock_guard<std::mutex> lock(mutex);
      handed.push_back(std::move(blocks));
    }
    const std::lock_guard<std::mutex> lock(mutex);
    done = true;
  });
  const auto take = [&] {
    for (;;) {
      Blocks blocks;
      {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!handed.empty()) {
          blocks = std::move(handed.back());
          handed.pop_back();
        } else if (done) {
          return;
        }
      }
      CheckAndFree(blocks, 7);
    }
  };
  std::thread first(take);
  std::thread second(take);
  maker.join();
  first.join();
  second.join();
  EXPECT_TRUE(handed.empty());
}

// A thread-local object that is older than the pool's own is destroyed after it.
struct Late {
  ~Late() { FreeBlock(block, 100); }
  void* block = nullptr;
};

TEST(BlockPoolTest, AThreadMayFreeWhileItEnds) {
  std::thread([] {
    thread_local Late late;
    late.block = AllocateBlock(100);
  }).join();
}

TEST(BlockPoolTest, AllocatesForSharedPointers) {
  const auto shared = std::allocate_shared<std::vector<int>>(BlockAllocator<std::vector<int>>(), 3, 5);
  EXPECT_EQ(*shared, std::vector<int>({5, 5, 5}));
}

}  // namespace
}  // namespace mesh
