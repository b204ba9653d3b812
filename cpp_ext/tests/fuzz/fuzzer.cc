// One target (MESH_FUZZ_TARGET, a function of target.h) under libFuzzer.
#include <cstdint>

#include "fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  mesh::fuzz::MESH_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}
