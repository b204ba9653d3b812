#include "common/large_block.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "common/sanitizers.h"

namespace mesh {
namespace {

using std::chrono::steady_clock;

constexpr std::size_t kGranule = 32UL * 1024;  // sizes that differ by less use the same blocks
constexpr std::size_t kMostIdle = 256UL << 20;

constexpr std::size_t RoundUp(std::size_t size) { return (size + kGranule - 1) / kGranule * kGranule; }

char* Map(std::size_t size) noexcept {
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<char*>(data);
}

void Unmap(LargeBlock block) noexcept { munmap(block.data, block.size); }

// To a larger size.
char* Remap(LargeBlock block, std::size_t size) noexcept {
  if (kPoolsMemory) {
    void* data = mremap(block.data, block.size, size, MREMAP_MAYMOVE);
    return data == MAP_FAILED ? nullptr : static_cast<char*>(data);
  }
  // ThreadSanitizer does not see pages move, and takes them for those that were there before.
  char* data = Map(size);
  if (data == nullptr) return nullptr;
  std::memcpy(data, block.data, block.size);
  Unmap(block);
  return data;
}

// Blocks that were freed, with sizes in whole granules. Never destroyed: threads may end after the statics do.
class IdleBlocks {
 public:
  static IdleBlocks& Get() {
    static auto* const idle = new IdleBlocks();
    return *idle;
  }

  void Give(LargeBlock block) noexcept {
    if (!Keep(block)) Unmap(block);
  }
  // Pages for `least` to `most` bytes, perhaps fewer or more of them; null when there is nothing that helps.
  LargeBlock Take(std::size_t least, std::size_t most) noexcept;
  void set_wait(std::chrono::milliseconds wait) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    wait_ = wait;
    changed_.notify_one();
  }
  std::size_t bytes() noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    return bytes_;
  }

 private:
  struct Idle {
    LargeBlock block;
    steady_clock::time_point since;
  };
  using Place = std::vector<Idle>::iterator;

  IdleBlocks() { blocks_.reserve(kMostIdle / kLargeBytes); }
  bool Keep(LargeBlock block) noexcept;
  LargeBlock Remove(Place place) noexcept;
  bool StartTrimming() noexcept;
  void Trim();

  std::mutex mutex_;                 // guards what follows
  std::condition_variable changed_;  // there was none and now there is one, or they wait for another time
  std::vector<Idle> blocks_;         // the one that waits for the longest time first
  std::size_t bytes_ = 0;
  std::chrono::milliseconds wait_{500};
  bool trimming_ = false;
};

bool IdleBlocks::Keep(LargeBlock block) noexcept {
  if (block.size < kLargeBytes) return false;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (bytes_ + block.size > kMostIdle || blocks_.size() == blocks_.capacity() || !StartTrimming()) return false;
  blocks_.push_back({block, steady_clock::now()});
  bytes_ += block.size;
  if (blocks_.size() == 1) changed_.notify_one();
  return true;
}

LargeBlock IdleBlocks::Take(std::size_t least, std::size_t most) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  auto fits = blocks_.end();     // the largest, and of those the last that was used
  auto exceeds = blocks_.end();  // the smallest; its rest stays here
  for (auto place = blocks_.begin(); place != blocks_.end(); ++place) {
    const std::size_t size = place->block.size;
    if (size > most) {
      if (exceeds == blocks_.end() || size <= exceeds->block.size) exceeds = place;
    } else if (size >= least / 2 && (fits == blocks_.end() || size >= fits->block.size)) {
      fits = place;
    }
  }
  if (fits == blocks_.end()) fits = exceeds;
  return fits == blocks_.end() ? LargeBlock() : Remove(fits);
}

LargeBlock IdleBlocks::Remove(Place place) noexcept {
  const LargeBlock block = place->block;
  blocks_.erase(place);
  bytes_ -= block.size;
  return block;
}

bool IdleBlocks::StartTrimming() noexcept {
  if (trimming_) return true;
  try {
    std::thread([this] { Trim(); }).detach();
    trimming_ = true;
  } catch (const std::system_error&) {
    return false;  // no thread, so nothing may wait: memory that is not kept is correct, too
  }
  return trimming_;
}

void IdleBlocks::Trim() {
  pthread_setname_np(pthread_self(), "idle-memory");
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return !blocks_.empty(); });
    const steady_clock::time_point due = blocks_.front().since + wait_;
    if (steady_clock::now() < due) {
      changed_.wait_until(lock, due);
      continue;
    }
    const LargeBlock old = Remove(blocks_.begin());
    lock.unlock();
    Unmap(old);
    lock.lock();
  }
}

// The block without what is behind `size`, which is left to others.
LargeBlock Cut(LargeBlock block, std::size_t size) noexcept {
  if (size < block.size) IdleBlocks::Get().Give({block.data + size, block.size - size});
  return {block.data, size};
}

}  // namespace

LargeBlock AllocateLarge(std::size_t least, std::size_t most) noexcept {
  const std::size_t fewest = RoundUp(least);
  const LargeBlock found = IdleBlocks::Get().Take(fewest, RoundUp(most));
  if (found.size >= fewest) {
    const LargeBlock cut = Cut(found, std::min(found.size, RoundUp(most)));
    return {cut.data, std::min(cut.size, most)};
  }
  char* data = found.data == nullptr ? Map(fewest) : Remap(found, fewest);
  if (data != nullptr) return {data, least};
  if (found.data != nullptr) IdleBlocks::Get().Give(found);
  return {};
}

char* ResizeLarge(LargeBlock block, std::size_t size) noexcept {
  const LargeBlock whole{block.data, RoundUp(block.size)};
  if (RoundUp(size) > whole.size) return Remap(whole, RoundUp(size));
  return Cut(whole, RoundUp(size)).data;
}

void FreeLarge(LargeBlock block) noexcept { IdleBlocks::Get().Give({block.data, RoundUp(block.size)}); }

void SetLargeBlockWait(std::chrono::milliseconds wait) noexcept { IdleBlocks::Get().set_wait(wait); }

std::size_t IdleLargeBytes() noexcept { return IdleBlocks::Get().bytes(); }

}  // namespace mesh
