// Between the replica and the Triton backend that gives it the requests for the user's code. Both are built together;
// the backend is a library of its own only because Triton loads backends so. C, because they differ in string ABI.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mesh/abi.h"

extern "C" {

// One request inside the backend.
struct MeshBackendExchange;

// What Triton knows of a request; stays until `release`.
struct MeshBackendRequest {
  const char* id;
  const MeshTensor* inputs;
  std::size_t input_count;
  const char* const* outputs;
  std::size_t output_count;
  const MeshValue* parameters;
  std::size_t parameter_count;
};

// As the functions of the same names in MeshHost, but for `release`, which may come before nothing else.
struct MeshBackendCalls {
  std::int32_t (*cancelled)(const MeshBackendExchange* exchange);
  std::int32_t (*output)(MeshBackendExchange* exchange, const char* name, const char* datatype,
                         const std::int64_t* shape, std::size_t dims, std::size_t size, void** data, MeshSink error);
  std::int32_t (*set_parameter)(MeshBackendExchange* exchange, const MeshValue* value, MeshSink error);
  std::int32_t (*send)(MeshBackendExchange* exchange, MeshSink error);
  void (*finish)(MeshBackendExchange* exchange, std::int32_t code, const char* message, std::size_t message_size);
  void (*release)(MeshBackendExchange* exchange);
};

// Who runs the user's code.
struct MeshBackendHost {
  void* self;
  // Takes the exchange. On a thread of the model's instances; may block.
  void (*execute)(void* self, MeshBackendExchange* exchange, const MeshBackendRequest* request,
                  const MeshBackendCalls* calls);
};

// Before Triton loads a model of the backend, and until it has unloaded it. Null: nobody any more.
using MeshBackendAttach = void (*)(const MeshBackendHost* host);
}

#define MESH_BACKEND_NAME "deployment"
#define MESH_BACKEND_ATTACH "TRITONBACKEND_MeshAttach"
