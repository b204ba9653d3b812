// Memory of what comes and goes with every request: blocks of up to 4 KiB, kept by the thread that freed them.
//
// A request's objects are often freed by another thread than the one that made them, which the allocator of glibc does
// slowly (it takes the lock of the other thread's arena). Here a thread with too many blocks hands half of them to a
// shared shelf, and one with none takes them from there, so the lock is taken once for many blocks.
#pragma once

#include <cstddef>

namespace mesh {

inline constexpr std::size_t kMaxPooledBytes = 4096;
inline constexpr std::size_t kPooledAlignment = 64;

// `size` bytes, aligned to a cache line. Throws std::bad_alloc. Sizes above kMaxPooledBytes are not pooled,
// but large ones wait a moment for their next use (large_block.h).
void* AllocateBlock(std::size_t size);
// `size` as it was asked for. From any thread.
void FreeBlock(void* block, std::size_t size) noexcept;

// For std::allocate_shared.
template <typename T>
class BlockAllocator {
 public:
  using value_type = T;
  BlockAllocator() = default;
  template <typename U>
  BlockAllocator(const BlockAllocator<U>& /*other*/) noexcept {}  // NOLINT(google-explicit-constructor): an allocator

  T* allocate(std::size_t count) {
    static_assert(alignof(T) <= kPooledAlignment);
    return static_cast<T*>(AllocateBlock(count * sizeof(T)));
  }
  void deallocate(T* block, std::size_t count) noexcept { FreeBlock(block, count * sizeof(T)); }

  template <typename U>
  bool operator==(const BlockAllocator<U>& /*other*/) const noexcept {
    return true;
  }
  template <typename U>
  bool operator!=(const BlockAllocator<U>& /*other*/) const noexcept {
    return false;
  }
};

}  // namespace mesh
