// What depends on a build for AddressSanitizer or ThreadSanitizer.
#pragma once

namespace mesh {

// Sanitizers have to see every allocation.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kPoolsMemory = false;
#else
inline constexpr bool kPoolsMemory = true;
#endif

}  // namespace mesh
