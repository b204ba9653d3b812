#include "ingress/not_offered.h"

namespace mesh::ingress {

Status ModelControlNotOffered(const std::string& method) {
  return {Code::kUnimplemented, method + ": models are loaded and unloaded by deploying a revision of the application"};
}

Status TraceSettingsNotOffered() {
  return {Code::kUnimplemented, "TraceSetting: trace settings are not supported yet"};
}

Status LogSettingsNotOffered() {
  return {Code::kUnimplemented, "LogSettings: log settings are part of the deployment's specification"};
}

}  // namespace mesh::ingress
