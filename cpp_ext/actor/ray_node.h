// What Ray tells its C++ workers on their command line.
#pragma once

#include <string>

#include "common/host.h"

namespace mesh::actor {

// The address by which others reach this process's node. Ray has no public function for it (2.60); empty without Ray.
inline std::string NodeAddress() { return CommandLineValue("ray_node_ip_address"); }

}  // namespace mesh::actor
