// One target (MESH_FUZZ_TARGET, a function of target.h) under libFuzzer.
#include <cstdint>

#include "fuzz/target.h"

#ifndef MESH_FUZZ_TARGET
#define MESH_FUZZ_TARGET GrpcStream  // for tools that read this file outside of the fuzzers' build
#endif

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  mesh::fuzz::MESH_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}
