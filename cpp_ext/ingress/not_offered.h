// What a replica does not do for its clients, said once for all protocols.
#pragma once

#include <string>

#include "common/status.h"

namespace mesh::ingress {

// UNIMPLEMENTED, beginning with the method's name.
Status ModelControlNotOffered(const std::string& method);
Status TraceSettingsNotOffered();
Status LogSettingsNotOffered();

}  // namespace mesh::ingress
