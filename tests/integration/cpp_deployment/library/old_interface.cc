// As if it had been compiled with the headers of another mesh.
#include "mesh/abi.h"

extern "C" const MeshFactory* mesh_deployment_factory(void) {
  static const MeshFactory factory{
      sizeof(MeshFactory), 99, "9.9.9", nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  return &factory;
}
