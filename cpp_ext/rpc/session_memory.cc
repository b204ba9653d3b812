#include "rpc/session_memory.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <new>

#include "common/block_pool.h"

namespace mesh::rpc {
namespace {

// Before each block: nghttp2 frees without the size.
constexpr std::size_t kHead = alignof(std::max_align_t);

std::size_t SizeOf(void* memory) {
  std::size_t size = 0;
  std::memcpy(&size, static_cast<char*>(memory) - kHead, sizeof size);
  return size;
}

void* Allocate(std::size_t size) {
  if (size > std::numeric_limits<std::size_t>::max() - kHead) return nullptr;
  try {
    auto* block = static_cast<char*>(AllocateBlock(size + kHead));
    std::memcpy(block, &size, sizeof size);
    return block + kHead;
  } catch (const std::bad_alloc&) {
    return nullptr;  // nghttp2 turns it into NGHTTP2_ERR_NOMEM
  }
}

void Free(void* memory, void* /*user*/) {
  if (memory != nullptr) FreeBlock(static_cast<char*>(memory) - kHead, SizeOf(memory) + kHead);
}

void* Reallocate(void* memory, std::size_t size) {
  if (memory == nullptr) return Allocate(size);
  const std::size_t old = SizeOf(memory);
  void* moved = Allocate(size);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, memory, std::min(old, size));
  Free(memory, nullptr);
  return moved;
}

void* AllocateZeros(std::size_t count, std::size_t size) {
  if (size != 0 && count > std::numeric_limits<std::size_t>::max() / size) return nullptr;
  void* memory = Allocate(count * size);
  if (memory != nullptr) std::memset(memory, 0, count * size);
  return memory;
}

}  // namespace

nghttp2_mem* SessionMemory() {
  static nghttp2_mem memory = {nullptr, [](std::size_t size, void*) { return Allocate(size); }, Free,
                               [](std::size_t count, std::size_t size, void*) { return AllocateZeros(count, size); },
                               [](void* old, std::size_t size, void*) { return Reallocate(old, size); }};
  return &memory;
}

}  // namespace mesh::rpc
