#include "common/block_pool.h"

#include <array>
#include <mutex>
#include <new>
#include <vector>

#include "common/large_block.h"
#include "common/sanitizers.h"

namespace mesh {
namespace {

constexpr std::size_t kStep = kPooledAlignment;
constexpr std::size_t kClasses = kMaxPooledBytes / kStep;
constexpr int kKept = 64;                            // blocks of a class that a thread keeps
constexpr int kMoved = 32;                           // blocks that go to the shelf or come from it at once
constexpr std::size_t kShelvedBytes = 512UL * 1024;  // of a class on the shelf; more go back to the system

struct Block {
  Block* next;
};

// A stack of blocks of one class.
struct Stack {
  Block* top = nullptr;
  int count = 0;

  void Push(void* memory) {
    top = new (memory) Block{top};
    ++count;
  }
  void* Pop() {
    Block* block = top;
    top = block->next;
    --count;
    return block;
  }
};

void* New(std::size_t size) { return ::operator new (size, std::align_val_t{kPooledAlignment}); }
void Delete(void* block) { ::operator delete (block, std::align_val_t{kPooledAlignment}); }

// Batches of blocks that no thread keeps. Never destroyed: threads may end after the statics do.
class Shelf {
 public:
  static Shelf& Get() {
    static auto* const shelf = new Shelf();
    return *shelf;
  }

  // False when the shelf is full.
  bool Put(std::size_t index, const Stack& batch) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<Stack>& place = places_[index];
    if (place.size() == place.capacity()) return false;
    place.push_back(batch);
    return true;
  }

  Stack Take(std::size_t index) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<Stack>& place = places_[index];
    if (place.empty()) return {};
    const Stack batch = place.back();
    place.pop_back();
    return batch;
  }

 private:
  Shelf() {
    for (std::size_t index = 0; index < kClasses; ++index) {
      places_[index].reserve(kShelvedBytes / (kMoved * (index + 1) * kStep));
    }
  }

  std::mutex mutex_;
  std::array<std::vector<Stack>, kClasses> places_;
};

// What this thread has: not made yet, in use, or gone, because other thread-local objects end after it.
enum class Life : unsigned char { kNone, kUsed, kEnded };
thread_local Life life = Life::kNone;

class ThreadBlocks {
 public:
  ThreadBlocks() { life = Life::kUsed; }
  ThreadBlocks(const ThreadBlocks&) = delete;
  ThreadBlocks& operator=(const ThreadBlocks&) = delete;
  ~ThreadBlocks() {
    life = Life::kEnded;
    for (std::size_t index = 0; index < kClasses; ++index) Shed(index, stacks_[index].count);
  }

  void* Take(std::size_t index) {
    Stack& stack = stacks_[index];
    if (stack.count == 0) stack = Shelf::Get().Take(index);
    return stack.count == 0 ? New((index + 1) * kStep) : stack.Pop();
  }

  void Give(std::size_t index, void* block) noexcept {
    stacks_[index].Push(block);
    if (stacks_[index].count > kKept) Shed(index, kMoved);
  }

 private:
  void Shed(std::size_t index, int count) noexcept {
    Stack batch;
    for (; count > 0; --count) batch.Push(stacks_[index].Pop());
    if (batch.count == 0 || Shelf::Get().Put(index, batch)) return;
    while (batch.count > 0) Delete(batch.Pop());
  }

  std::array<Stack, kClasses> stacks_;
};

ThreadBlocks& Local() {
  thread_local ThreadBlocks blocks;
  return blocks;
}

bool Pooled(std::size_t size) { return kPoolsMemory && size > 0 && size <= kMaxPooledBytes && life != Life::kEnded; }

bool Large(std::size_t size) { return kPoolsMemory && size >= kLargeBytes; }

}  // namespace

void* AllocateBlock(std::size_t size) {
  if (Pooled(size)) return Local().Take((size - 1) / kStep);
  if (!Large(size)) return New((size + kStep - 1) / kStep * kStep);
  const LargeBlock block = AllocateLarge(size, size);
  if (block.data == nullptr) throw std::bad_alloc();
  return block.data;
}

void FreeBlock(void* block, std::size_t size) noexcept {
  if (Pooled(size)) return Local().Give((size - 1) / kStep, block);
  if (Large(size)) return FreeLarge({static_cast<char*>(block), size});
  Delete(block);
}

}  // namespace mesh
