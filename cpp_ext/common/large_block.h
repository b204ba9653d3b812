// Memory of large messages and tensors: mapped, and given back to the system as soon as nobody wants it any more.
//
// The allocator of glibc takes such memory from its heap once the first of it was freed; there it leaves holes, and
// what is resident grows to a multiple of what is used. Memory that is mapped for each message leaves none, but making
// and zeroing its pages costs more CPU time than all else that is done with the message. So a block that was freed
// waits half a second for the next message that can use its pages.
#pragma once

#include <chrono>
#include <cstddef>

namespace mesh {

inline constexpr std::size_t kLargeBytes = 256UL * 1024;

struct LargeBlock {
  char* data = nullptr;  // aligned to a page
  std::size_t size = 0;
};

// At least `least` bytes, which are kLargeBytes or more, and up to `most` where so much waits unused. Null: no memory.
// What is in it is undefined. From any thread, as all that follows.
LargeBlock AllocateLarge(std::size_t least, std::size_t most) noexcept;
// Of kLargeBytes or more, too; moves pages instead of copying bytes. Null: no memory, and the block is as it was;
// making a block smaller never fails and leaves it where it is.
char* ResizeLarge(LargeBlock block, std::size_t size) noexcept;
void FreeLarge(LargeBlock block) noexcept;
// Bytes that wait for their next use.
std::size_t IdleLargeBytes() noexcept;
// How long they do, instead of half a second; for tests.
void SetLargeBlockWait(std::chrono::milliseconds wait) noexcept;

}  // namespace mesh
