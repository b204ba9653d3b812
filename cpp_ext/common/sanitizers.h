// What depends on a build for AddressSanitizer or ThreadSanitizer.
#pragma once

namespace mesh {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

inline constexpr bool kPoolsMemory = !kSanitized;  // they have to see every allocation

}  // namespace mesh
